"use strict";
// From a latent code to a picture: the arithmetic of a VAE's Decoder.
//
// Pictures between the layers are Float32Arrays, row by row, and within a pixel channel by channel:
// the value of channel c at row y and column x is values[(y * size + x) * channels + c].

// ---- Numbers from the page ------------------------------------------------------------------

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

const floatsOf = (base64) => new Float32Array(bytesOf(base64).buffer);

// Numbers of 16 bits: a sign, 5 bits of exponent, 10 bits of fraction.
function halvesOf(base64) {
  return Float32Array.from(new Uint16Array(bytesOf(base64).buffer), (bits) => {
    const exponent = (bits >> 10) & 31, fraction = (bits & 1023) / 1024;
    const size = exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction;
    return bits & 0x8000 ? -size : size;
  });
}

// ---- Layers ---------------------------------------------------------------------------------

// The error function, by formula 7.1.26 of Abramowitz & Stegun (1964), within 2e-7.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const terms = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];
  return Math.sign(x) * (1 - terms.reduce((sum, term) => (sum + term) * t, 0) * Math.exp(-x * x));
}

const ACTIVATIONS = {
  linear: (x) => x,
  relu: (x) => (x > 0 ? x : 0),
  leaky_relu: (x) => (x > 0 ? x : 0.2 * x),
  elu: (x) => (x > 0 ? x : Math.expm1(x)),
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  silu: (x) => x / (1 + Math.exp(-x)),
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
};

// A transposed convolution writes each input pixel, times the kernel, around the place
// stride * pixel of its output, and sums what overlaps. Read from the output, pixel o of a row is a
// sum over the taps j of the kernel that reach it: those with o = stride * input + j - before.
// Which they are depends on o modulo the stride, its phase. So all outputs of a phase are one
// matrix product: the input pixels that they read, times the weights of the phase.
function prepareLayer(layer, weights, scales, bias) {
  const { stride, inputs, outputs } = layer;
  let { side } = layer;
  let kernel = new Float32Array(weights.length);
  for (let i = 0, output = 0; i < kernel.length; output = (output + 1) % outputs) {
    for (const end = i + inputs; i < end; i++) kernel[i] = weights[i] * scales[output];
  }
  let before = Math.max(side - stride, 0) >> 1;
  if (layer.resize) {
    kernel = resizeKernel(kernel, layer);
    before = (side - 1) >> 1;
    side += stride - 1;
  }
  // Of one dimension: the taps of a phase, each with the input pixel that it reads, from its own.
  const taps = (phase) => {
    const found = [];
    for (let tap = 0; tap < side; tap++) {
      const distance = phase + before - tap;
      if (distance % stride === 0) found.push({ tap, shift: distance / stride });
    }
    return found;
  };
  const phases = [];
  for (let row = 0; row < stride; row++) {
    for (let column = 0; column < stride; column++) {
      const reads = taps(row).flatMap((y) => taps(column).map((x) => [y, x]));
      // (outputs, reads * inputs): what one output is the product with lies together.
      const matrix = new Float32Array(outputs * reads.length * inputs);
      for (let o = 0; o < outputs; o++) {
        reads.forEach(([y, x], read) => {
          const from = ((y.tap * side + x.tap) * outputs + o) * inputs;
          matrix.set(kernel.subarray(from, from + inputs), (o * reads.length + read) * inputs);
        });
      }
      phases.push({ row, column, matrix, shifts: reads.map(([y, x]) => [y.shift, x.shift]) });
    }
  }
  return { ...layer, bias, phases };
}

// Repeating each pixel `stride` times a side and then convolving is a transposed convolution, too:
// its kernel is the mirrored one, added up at stride x stride neighbouring places.
function resizeKernel(kernel, { side, stride, inputs, outputs }) {
  const larger = side + stride - 1, channels = inputs * outputs;
  const sum = new Float32Array(larger * larger * channels);
  for (let y = 0; y < larger; y++) {
    for (let x = 0; x < larger; x++) {
      const to = (y * larger + x) * channels;
      for (let i = 0; i < side; i++) {
        for (let j = 0; j < side; j++) {
          const down = y - (side - 1 - i), right = x - (side - 1 - j);
          if (down < 0 || down >= stride || right < 0 || right >= stride) continue;
          const from = (i * side + j) * channels;
          for (let c = 0; c < channels; c++) sum[to + c] += kernel[from + c];
        }
      }
    }
  }
  return sum;
}

function computeLayer(layer, input) {
  const { size, stride, inputs, outputs, bias } = layer;
  const output = new Float32Array(size * stride * size * stride * outputs);
  for (const { row, column, matrix, shifts } of layer.phases) {
    const pixels = pixelsRead(input, size, inputs, shifts);
    const product = times(pixels, matrix, size * size, outputs, shifts.length * inputs);
    for (let y = 0, from = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        const to = ((y * stride + row) * size * stride + x * stride + column) * outputs;
        for (let o = 0; o < outputs; o++) output[to + o] = product[from++] + bias[o];
      }
    }
  }
  if (layer.residual) for (let i = 0; i < output.length; i++) output[i] += input[i];
  const activation = ACTIVATIONS[layer.activation];
  for (let i = 0; i < output.length; i++) output[i] = activation(output[i]);
  return output;
}

// For each pixel, the channels of the pixels at the shifts from it; 0 outside of the picture.
function pixelsRead(input, size, channels, shifts) {
  const read = new Float32Array(size * size * shifts.length * channels);
  let to = 0;
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      for (const [down, right] of shifts) {
        const row = y + down, column = x + right;
        if (row >= 0 && row < size && column >= 0 && column < size) {
          const from = (row * size + column) * channels;
          read.set(input.subarray(from, from + channels), to);
        }
        to += channels;
      }
    }
  }
  return read;
}

// a (rows, length) times the transposed b (columns, length). Here is nearly all the time of a
// picture: so the sums of two rows and four columns are made at once, each in a variable of its
// own. Where there are fewer, the last one is computed again.
function times(a, b, rows, columns, length) {
  const product = new Float32Array(rows * columns);
  for (let column = 0; column < columns; column += 4) {
    const column1 = Math.min(column + 1, columns - 1);
    const column2 = Math.min(column + 2, columns - 1);
    const column3 = Math.min(column + 3, columns - 1);
    const b0 = column * length, b1 = column1 * length, b2 = column2 * length, b3 = column3 * length;
    for (let row = 0; row < rows; row += 2) {
      const row1 = Math.min(row + 1, rows - 1);
      const a0 = row * length, a1 = row1 * length;
      let sum00 = 0, sum01 = 0, sum02 = 0, sum03 = 0;
      let sum10 = 0, sum11 = 0, sum12 = 0, sum13 = 0;
      for (let i = 0; i < length; i++) {
        const value0 = a[a0 + i], value1 = a[a1 + i];
        const weight0 = b[b0 + i], weight1 = b[b1 + i], weight2 = b[b2 + i], weight3 = b[b3 + i];
        sum00 += value0 * weight0;
        sum01 += value0 * weight1;
        sum02 += value0 * weight2;
        sum03 += value0 * weight3;
        sum10 += value1 * weight0;
        sum11 += value1 * weight1;
        sum12 += value1 * weight2;
        sum13 += value1 * weight3;
      }
      const to0 = row * columns, to1 = row1 * columns;
      product[to0 + column] = sum00;
      product[to0 + column1] = sum01;
      product[to0 + column2] = sum02;
      product[to0 + column3] = sum03;
      product[to1 + column] = sum10;
      product[to1 + column1] = sum11;
      product[to1 + column2] = sum12;
      product[to1 + column3] = sum13;
    }
  }
  return product;
}

// ---- The whole Decoder ------------------------------------------------------------------------

// The numbers of all layers are one after the other.
function prepareDecoder({ layers, weights, scales, biases }) {
  const allWeights = new Int8Array(bytesOf(weights).buffer);
  const allScales = floatsOf(scales), allBiases = floatsOf(biases);
  let weight = 0, output = 0;
  return layers.map((layer) => {
    const lastWeight = weight + layer.side * layer.side * layer.inputs * layer.outputs;
    const lastOutput = output + layer.outputs;
    const prepared = prepareLayer(
      layer,
      allWeights.subarray(weight, lastWeight),
      allScales.subarray(output, lastOutput),
      allBiases.subarray(output, lastOutput),
    );
    [weight, output] = [lastWeight, lastOutput];
    return prepared;
  });
}

// A latent code, a Float32Array, to a picture: size * size * 3 values from 0 to 1.
function decode(decoder, code) {
  return decoder.reduce((values, layer) => computeLayer(layer, values), code);
}

// ---- Random latent codes ----------------------------------------------------------------------

// Uniform random numbers from 0 to 1, the same for the same seed: a counter, whose bits are mixed
// as MurmurHash3 (Austin Appleby) does at its end.
function randomNumbers(seed) {
  const mixed = (value) => {
    value = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
    value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35);
    return (value ^ (value >>> 16)) >>> 0;
  };
  let counter = mixed(seed);
  return () => {
    counter = (counter + 0x9e3779b9) | 0;
    return (mixed(counter) + 0.5) / 2 ** 32;
  };
}

// A draw that every prior is made from: `chance`, uniform, and `normal`, of N(0, I), by the formula
// of Box and Muller.
function draw(seed, length) {
  const random = randomNumbers(seed);
  const chance = random();
  const normal = Float32Array.from({ length }, () => {
    return Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random());
  });
  return { chance, normal };
}

// A mixture of Gaussians: each has a mean and a lower triangle L, with L L^T its covariance.
function preparePrior({ weights, means, scales, triangles }, length) {
  const allMeans = floatsOf(means), allTriangles = halvesOf(triangles);
  const rows = (length * (length + 1)) / 2;
  const parts = weights.map((weight, i) => ({
    weight,
    scale: scales[i],
    mean: allMeans.subarray(i * length, (i + 1) * length),
    triangle: allTriangles.subarray(i * rows, (i + 1) * rows),
  }));
  const mean = new Float32Array(length);
  for (const part of parts) part.mean.forEach((value, i) => (mean[i] += part.weight * value));
  return { parts, mean };
}

// mean + L normal, of the Gaussian that the chance falls on.
function codeOf({ parts }, { chance, normal }) {
  let sum = 0;
  const part = parts.find(({ weight }) => (sum += weight) > chance) ?? parts.at(-1);
  let entry = 0;
  return part.mean.map((mean, row) => {
    let value = 0;
    for (let i = 0; i <= row; i++) value += part.triangle[entry++] * normal[i];
    return mean + part.scale * value;
  });
}
