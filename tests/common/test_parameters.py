"""params.yaml is checked completely, and every mistake is reported with the key's full name."""

import ast
import os
import sys
from pathlib import Path

import pytest
import yaml
from helpers import settings

from facevae.common.errors import UserError
from facevae.common.parameters import VARIANTS, Parameters, _main, load_parameters


@pytest.fixture
def content(project: Path) -> dict:
    return yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))


def _load(content: object, folder: Path):
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_parameters(path)


def test_several_mistakes_are_one_line_each(content: dict, tmp_path: Path) -> None:
    content["train"]["epochs"] = -5
    content["train"]["epoch"] = 3
    content["encoder"]["latent_size"] = "many"
    del content["loss"]["kl_weight"]
    with pytest.raises(UserError) as raised:
        _load(content, tmp_path)
    lines = [
        line.removeprefix(f"{tmp_path}/params.yaml: ") for line in str(raised.value).split("\n")
    ]
    assert sorted(lines) == [
        "encoder.latent_size: must be a valid integer, not 'many'",
        "loss.kl_weight: missing",
        "train.epoch: unknown parameter",
        "train.epochs: must be greater than or equal to 1, not -5",
    ]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("data", "crop", 150),
        ("data", "resize", "nearest"),
        ("data", "source", ""),
        ("data", "layout", "files"),
        ("data", "split_seed", -1),
        ("encoder", "filters", []),
        ("encoder", "strides", [2, 2, 2, 0]),
        ("encoder", "inter_dense", 0),
        ("encoder", "block", "dense"),
        ("encoder", "batch_normalization", 1),
        ("encoder", "dropout", 1.0),
        ("loss", "reconstruction", "mae"),
        ("decoder", "resize_layers", -1),
        ("decoder", "resize_layers", [2, 2]),
        ("decoder", "kernel_sizes", 3),
        ("train", "ema_momentum", 1),
        ("train", "horizontal_flips", 1),
        ("loss", "sigma", 0),
        ("loss", "sigma", "fixed"),
        ("loss", "sigma", True),
        ("loss", "free_bits", -1.0),
        ("generate", "prior", "uniform"),
        ("loss", "kl_weight", -0.1),
        ("loss", "kl_weight", float("nan")),
        ("train", "batch_size", 12.5),
        ("train", "accumulation_steps", 0),
        ("train", "rematerialization", 1),
        ("train", "optimizer", "adamw"),
        ("train", "learning_rate", 0),
        ("train", "learning_rate_schedule", "linear"),
        ("train", "warmup_steps", -1),
        ("train", "gradient_clip_norm", 0),
        ("train", "early_stopping_patience", 0),
        ("train", "seed", -1),
        ("generate", "attributes", ["Smiling", ""]),
        ("evaluate", "inception_weights", ""),
        # Numbers that cannot be meant.
        ("data", "images_per_shard", 10**8),
        ("encoder", "filters", [10**6]),
        ("encoder", "filters", [8] * 100),
        ("encoder", "kernel_sizes", [3, 3, 3, 10**4]),
        ("encoder", "strides", [2, 2, 2, 10**4]),
        ("encoder", "latent_size", 10**6),
        ("encoder", "inter_dense", 10**6),
        ("loss", "sigma", 10**6),
        ("loss", "kl_weight", 1e39),
        ("loss", "free_bits", 1e39),
        ("loss", "kl_warmup_epochs", 10**9),
        ("train", "epochs", 10**9),
        ("train", "batch_size", 10**9),
        ("train", "accumulation_steps", 10**9),
        ("train", "warmup_steps", 10**12),
        ("train", "gradient_clip_norm", 1e39),
        ("train", "early_stopping_patience", 10**9),
        # Paths that would mean another place to DVC, or none.
        ("data", "source", "~/celeba"),
        ("data", "source", "a\0b"),
        ("data", "source", "a\nb"),
        ("evaluate", "inception_weights", "~/weights.h5"),
    ],
)
def test_out_of_range_is_refused_by_name(
    content: dict, tmp_path: Path, section: str, key: str, value: object
) -> None:
    content[section][key] = value
    with pytest.raises(UserError, match=f"params.yaml: {section}.{key}[.:]"):
        _load(content, tmp_path)


def test_shape_and_range_are_told_together(content: dict, tmp_path: Path) -> None:
    content["data"]["image_size"] = 90
    content["train"]["epochs"] = -1
    with pytest.raises(UserError) as raised:
        _load(content, tmp_path)
    assert "train.epochs: must be" in str(raised.value)
    assert "encoder.strides: layer 2" in str(raised.value)


def test_lists_of_another_length_are_refused(content: dict, tmp_path: Path) -> None:
    content["encoder"]["filters"] = [32, 64, 128]
    with pytest.raises(UserError) as raised:
        _load(content, tmp_path)
    assert "encoder.kernel_sizes: has 4 entries and encoder.filters has 3" in str(raised.value)
    assert "encoder.strides: has 4 entries and encoder.filters has 3" in str(raised.value)


def test_kernels_of_the_decoder_have_an_entry_per_layer(content: dict, tmp_path: Path) -> None:
    content["decoder"]["kernel_sizes"] = [3, 4]
    with pytest.raises(UserError) as raised:
        _load(content, tmp_path)
    assert "decoder.kernel_sizes: has 2 entries and encoder.filters has 4" in str(raised.value)
    content["decoder"]["kernel_sizes"] = [3, 4, 3, 4]
    assert _load(content, tmp_path).decoder.kernel_sizes == [3, 4, 3, 4]


def test_strides_that_do_not_divide_the_image_are_refused(content: dict, tmp_path: Path) -> None:
    content["data"]["image_size"] = 90
    with pytest.raises(UserError, match=r"layer 2 has stride 2, .* 45x45 pixels"):
        _load(content, tmp_path)


@pytest.mark.parametrize(("given", "read"), [("learned", "learned"), (0.1, 0.1), (1, 1.0)])
def test_sigma_is_a_number_or_learned(
    content: dict, tmp_path: Path, given: object, read: object
) -> None:
    content["loss"]["sigma"] = given
    assert _load(content, tmp_path).loss.sigma == read
    content["loss"]["sigma"] = "best"
    with pytest.raises(UserError) as raised:
        _load(content, tmp_path)
    assert str(raised.value).endswith(
        "loss.sigma: must be learned or a number greater than 0 and at most 1000, not 'best'"
    )


@pytest.mark.parametrize("text", ["1e-3", "0.001"])
def test_numbers_as_dvc_reads_them(project: Path, tmp_path: Path, text: str) -> None:
    params = (project / "params.yaml").read_text(encoding="utf-8")
    assert "learning_rate: 0.001" in params
    path = tmp_path / "params.yaml"
    path.write_text(params.replace("learning_rate: 0.001", f"learning_rate: {text}"), "utf-8")
    assert load_parameters(path).train.learning_rate == 0.001


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "\x00", "[" * 5000, "a: !!int x"])
def test_what_is_not_a_params_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as raised:
        load_parameters(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("1" * 400, "line {}: a number of 400 characters cannot be meant"),
        ("9" * 5000, "line {}: a number of 5000 characters cannot be meant"),
        ("0x" + "f" * 5000, "line {}: a number of 5002 characters cannot be meant"),
        ("2026-13-45", "line {}: 2026-13-45 is neither text nor a number"),
        ("2026-11-25", "line {}: 2026-11-25 is neither text nor a number"),
        ("!!binary aGk=", "line {}: aGk= is neither text nor a number"),
        ("010", "line {}: 010 is a number that programs read differently; write it in plain"),
        ("0o10", "line {}: 0o10 is a number that programs read differently"),
        ("0x10", "line {}: 0x10 is a number that programs read differently"),
        ("1_000", "line {}: 1_000 is a number that programs read differently"),
        ("5\n  epochs: 6", "line {next}: the key epochs is in line {} already; keep one"),
        ("1e400", "train.epochs: must be a valid integer, not inf"),
        (f"'{'long ' * 999}'", "train.epochs: must be a valid integer, not 'long "),
        (f"[{'1, ' * 9999}]", "train.epochs: must be a valid integer, not [1, 1, 1, 1, 1, 1, ...]"),
        ('"a\\x1b[31m\\nb"', r"train.epochs: must be a valid integer, not 'a\x1b[31m\nb'"),
    ],
)
def test_a_value_with_two_meanings_or_none_is_a_short_sentence(
    project: Path, tmp_path: Path, written: str, sentence: str
) -> None:
    params = (project / "params.yaml").read_text(encoding="utf-8")
    line = params[: params.index("  epochs: 10\n")].count("\n") + 1
    path = tmp_path / "params.yaml"
    path.write_text(params.replace("  epochs: 10\n", f"  epochs: {written}\n"), "utf-8")
    with pytest.raises(UserError) as raised:
        load_parameters(path)
    told = str(raised.value).removeprefix(f"{path}: ")
    assert told.startswith(sentence.format(line, next=line + 1))
    assert len(told) < 160
    assert told.isprintable()


def test_nested_aliases_are_a_short_sentence_at_once(project: Path, tmp_path: Path) -> None:
    """Written out, they would be a list of a million million entries."""
    aliases = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 12))
    path = tmp_path / "params.yaml"
    params = (project / "params.yaml").read_text(encoding="utf-8")
    path.write_text(f"l0: &l0 [1]\n{aliases}{params}", "utf-8")
    with pytest.raises(UserError) as raised:
        load_parameters(path)
    lines = str(raised.value).splitlines()
    assert len(lines) == 12
    assert lines[0] == f"{path}: l0: unknown parameter"


def test_many_mistakes_are_cut(content: dict, tmp_path: Path) -> None:
    content["generate"] |= {f"key {number}": 0 for number in range(1000)}
    content["generate"]["k" * 5000 + "\x1b"] = 0
    with pytest.raises(UserError) as raised:
        _load(content, tmp_path)
    lines = str(raised.value).splitlines()
    assert lines[-1] == f"{tmp_path}/params.yaml: ... and 981 more mistakes"
    assert len(lines) == 21
    del content["generate"]["k" * 5000 + "\x1b"], content["train"]["epochs"]
    content["train"]["\x1b" * 5000] = 0
    with pytest.raises(UserError) as raised:
        _load(content, tmp_path)
    assert max(map(len, str(raised.value).splitlines())) < 200
    assert "\x1b" not in str(raised.value)


def test_a_byte_order_mark_is_no_mistake(project: Path, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((project / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert load_parameters(path) == load_parameters(project / "params.yaml")


def test_a_home_that_is_not_expanded_is_written_out(
    content: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    content["data"]["source"] = "~/celeba"
    with pytest.raises(UserError, match="~ is not expanded here; write /home/me/celeba, not '~/c"):
        _load(content, tmp_path)
    content["data"]["source"] = "~no-such-user/celeba"
    with pytest.raises(UserError, match="~ is not expanded here; write the whole path"):
        _load(content, tmp_path)


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        ({"train": 15}, "train.batch_size: 16 is more than the 15 images of the train split"),
        ({"train": 99}, "generate.prior: a mixture needs at least 100 training images, and ther"),
        ({"test": 31}, "generate.rows, generate.columns: 8 x 8 needs 32 held-out images, and th"),
    ],
)
def test_limits_too_small_for_what_is_asked_are_told_without_any_data(
    content: dict, tmp_path: Path, limit: dict[str, int], sentence: str
) -> None:
    content["data"]["limit"] |= limit
    content["generate"]["prior"] = "mixture"
    with pytest.raises(UserError) as raised:
        _load(content, tmp_path)
    assert str(raised.value).removeprefix(f"{tmp_path}/params.yaml: ").startswith(sentence)
    content["data"]["limit"] |= {name: count + 1 for name, count in limit.items()}
    if limit == {"train": 15}:
        content["generate"]["prior"] = "gaussian"
    assert _load(content, tmp_path)


def test_make_check_looks_for_the_file_that_is_named(
    content: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    content["evaluate"]["inception_weights"] = "/no/such.h5"
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["parameters.py", str(path)])
    assert _main() == 2
    assert "evaluate.inception_weights: there is no file /no/such.h5" in capsys.readouterr().err


def test_make_check_looks_for_the_packages_that_find_faces(
    content: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    content["evaluate"]["faces"] = True
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["parameters.py", str(path)])
    assert _main() == 0
    monkeypatch.setitem(sys.modules, "dlib", None)  # as if it were not installed
    assert _main() == 2
    assert capsys.readouterr().err == (
        f"evaluate.faces: true needs dlib-bin, which {sys.executable} lacks; install what it "
        f"needs into .venv with `make faces`, or set it to false\n"
    )


def test_what_is_no_file_is_a_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "", "loop", 300 * "x"):
        with pytest.raises(UserError, match="cannot be read: "):
            load_parameters(tmp_path / name)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; run from the project's folder"):
        load_parameters(tmp_path / "params.yaml")


def test_every_key_has_a_comment(project: Path) -> None:
    lines = (project / "params.yaml").read_text(encoding="utf-8").splitlines()
    leaves = [line for line in lines if ": " in line.split("#")[0] and not line.endswith(":")]
    told_by_name = {
        "seed",
        "train",
        "validation",
        "test",
        "epochs",
        "batch_size",
        "batch_normalization",
    }
    silent = {line.split(":")[0].strip() for line in leaves if "#" not in line}
    assert silent <= told_by_name


def test_changes_are_checked_as_the_file_is() -> None:
    known = settings()
    changed = known.with_changes({"train.batch_size": 64, "data.limit.train": 700})
    assert (changed.train.batch_size, changed.data.limit.train) == (64, 700)
    assert known.train.batch_size == 16
    with pytest.raises(UserError) as raised:
        known.with_changes({"train.epochs": 0, "train.epoch": 3})
    assert sorted(str(raised.value).split("\n")) == [
        "train.epoch: unknown parameter",
        "train.epochs: must be greater than or equal to 1, not 0",
    ]
    with pytest.raises(UserError, match=r"encoder\.strides: has 1 entries"):
        known.with_changes({"encoder.strides": [2]})
    with pytest.raises(UserError, match=r"traain\.epochs: unknown parameter"):
        known.with_changes({"traain.epochs": 1})


def test_a_batch_of_unequal_parts_is_refused(content: dict, tmp_path: Path) -> None:
    content["train"] |= {"batch_size": 32, "accumulation_steps": 3}
    with pytest.raises(UserError, match=r"train.batch_size: 32 images .+ 3 equal parts"):
        _load(content, tmp_path)


def test_variants_differ_in_the_extra_layer_alone(parameters: Parameters) -> None:
    direct, inter_dense = (parameters.variant(name) for name in VARIANTS)
    assert inter_dense == parameters
    assert direct.encoder.inter_dense == 0
    assert direct == parameters.with_changes({"encoder.inter_dense": 0})
    with pytest.raises(UserError, match="no variant 'dense'; there are direct and inter_dense"):
        parameters.variant("dense")


def test_the_library_has_no_defaults_for_settings(content: dict, project: Path) -> None:
    """params.yaml holds the only default of a key: none is repeated in a signature."""
    sections = ("data", "encoder", "loss", "train")
    keys = {key for section in sections for key in content[section]}
    keys -= {"seed", "limit", "source"}  # words with other meanings elsewhere
    keys -= {"rematerialization"}  # an argument of a call of the VAE, not a setting
    for file in (project / "src" / "facevae").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                signature = node.args
                positional = signature.posonlyargs + signature.args
                with_default = positional[len(positional) - len(signature.defaults) :]
                pairs = zip(signature.kwonlyargs, signature.kw_defaults, strict=True)
                with_default += [argument for argument, default in pairs if default is not None]
                named = {argument.arg for argument in with_default}
                assert not named & keys, f"{file}: {node.name}: {named & keys}"
