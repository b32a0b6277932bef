"use strict";
// The controls of the page: from what they say to a latent code, and to a picture of each variant.

const page = JSON.parse(document.getElementById("models").textContent);
const control = (id) => document.getElementById(id);
const chosen = (name) => Number(document.querySelector(`input[name="${name}"]:checked`).value);

const standardNormal = { mean: new Float32Array(page.latent_size) };
const rowsOf = (base64) => {
  const numbers = floatsOf(base64), length = page.latent_size;
  return Array.from({ length: numbers.length / length }, (_, row) => {
    return numbers.subarray(row * length, (row + 1) * length);
  });
};
const variants = []; // filled by `start`

let used = "random"; // or "held-out": which of the two groups of controls was used last

// What the controls say. The same for both variants.
function settings() {
  const fitted = control("prior-fitted")?.checked ?? false;
  const random = used === "random";
  return {
    random,
    seed: Number(control("seed").value) >>> 0,
    from: chosen("from"),
    to: chosen("to"),
    between: Number(control("between").value),
    fitted: random ? fitted : control("prior-fitted") !== null, // whose mean is the middle
    distance: Number(control("distance").value),
    attributes: page.attributes.map((_, i) => Number(control(`attribute-${i}`).value)),
  };
}

// The latent code of a variant: drawn, or between those of two faces; then at another distance from
// the mean of all; then with the directions of the attributes added.
function latentCode(variant, { random, seed, from, to, between, fitted, distance, attributes }) {
  const prior = fitted ? variant.prior : standardNormal;
  let code;
  if (random) {
    const numbers = draw(seed, page.latent_size);
    code = fitted ? codeOf(prior, numbers) : numbers.normal;
  } else {
    const last = variant.heldOut[to];
    code = variant.heldOut[from].map((value, i) => value * (1 - between) + last[i] * between);
  }
  return code.map((value, i) => {
    const moved = prior.mean[i] + distance * (value - prior.mean[i]);
    return attributes.reduce((sum, steps, a) => sum + steps * variant.directions[a][i], moved);
  });
}

function paint(canvas, values) {
  const image = new ImageData(page.image_size, page.image_size);
  for (let pixel = 0; pixel < values.length / 3; pixel++) {
    for (let c = 0; c < 3; c++) image.data[pixel * 4 + c] = 255 * values[pixel * 3 + c];
    image.data[pixel * 4 + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// A small picture, enlarged smoothly.
function enlarge({ small, canvas }) {
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

const percent = (share) => `${Math.round(100 * share)} %`;
const signed = (steps) => (steps > 0 ? "+" : steps < 0 ? "−" : "") + Math.abs(steps).toFixed(1);

function drawFaces() {
  const now = settings();
  const times = variants.map((variant) => {
    const start = performance.now();
    paint(variant.small, decode(variant.decoder, latentCode(variant, now)));
    enlarge(variant);
    return `${variant.name} ${Math.round(performance.now() - start)} ms`;
  });
  control("between-value").value = percent(now.between);
  control("distance-value").value = `× ${now.distance.toFixed(2)}`;
  now.attributes.forEach((steps, i) => (control(`attribute-${i}-value`).value = signed(steps)));
  for (const group of ["random", "held-out"]) {
    control(group).classList.toggle("used", group === used);
  }
  const what = now.random
    ? `Random face ${now.seed}, drawn from ${now.fitted ? "the fitted prior" : "N(0, I)"}.`
    : `Held-out faces ${now.from + 1} and ${now.to + 1}, ${percent(now.between)} of the way.`;
  control("status").textContent = `${what}\nComputed: ${times.join(", ")}.`;
}

// At most one drawing for each frame, however many events there are.
let waiting = false;
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    drawFaces();
  });
}

// Both pictures side by side, with the names of the variants below.
function savePicture() {
  const side = variants[0].canvas.width, gap = 12, line = 32;
  const picture = document.createElement("canvas");
  picture.width = variants.length * (side + gap) + gap;
  picture.height = side + gap + line;
  const context = picture.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, picture.width, picture.height);
  context.fillStyle = "black";
  context.font = "16px system-ui, sans-serif";
  variants.forEach(({ name, canvas }, i) => {
    const left = gap + i * (side + gap);
    context.drawImage(canvas, left, gap);
    context.fillText(name, left, side + gap + 21, side);
  });
  const now = settings();
  picture.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = now.random ? `face-${now.seed}.png` : `faces-${now.from + 1}-${now.to + 1}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  });
}

// Small pictures of the held-out faces, one at a time, so that the page answers in between.
function paintThumbnails(number) {
  if (number === page.held_out) return;
  const values = decode(variants[0].decoder, variants[0].heldOut[number]);
  for (const canvas of document.querySelectorAll(`canvas[data-face="${number}"]`)) {
    paint(canvas, values);
  }
  setTimeout(() => paintThumbnails(number + 1));
}

function start() {
  for (const each of page.variants) {
    const small = document.createElement("canvas"), canvas = control(`picture-${each.name}`);
    small.width = small.height = page.image_size;
    canvas.width = canvas.height = page.image_size * (page.image_size < 200 ? 3 : 1);
    variants.push({
      name: each.name,
      small,
      canvas,
      decoder: prepareDecoder(each),
      prior: each.prior && preparePrior(each.prior, page.latent_size),
      heldOut: rowsOf(each.held_out),
      directions: rowsOf(each.directions),
    });
  }
  for (const group of ["random", "held-out"]) {
    control(group).addEventListener("input", () => {
      used = group;
      redraw();
    });
  }
  control("changes").addEventListener("input", redraw);
  control("new-face").addEventListener("click", () => {
    control("seed").value = Math.floor(Math.random() * 1e6);
    used = "random";
    redraw();
  });
  control("reset").addEventListener("click", () => {
    for (const slider of control("changes").querySelectorAll("input")) {
      slider.value = slider.defaultValue;
    }
    redraw();
  });
  control("save").addEventListener("click", savePicture);
  for (const button of document.querySelectorAll("button")) button.disabled = false;
  drawFaces();
  setTimeout(() => paintThumbnails(0));
}

// After the page is on the screen, because it takes some time to prepare the Decoders.
requestAnimationFrame(() => setTimeout(start));
