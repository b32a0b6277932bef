"""TF_CONFIG: the machines of a training, or a sentence, without TensorFlow."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facevae.common.errors import UserError
from facevae.training.cluster import Cluster, read_cluster


def _read(config: Any) -> Cluster | None:
    return read_cluster({"TF_CONFIG": config if isinstance(config, str) else json.dumps(config)})


def _config(machines: Any = ("a:1", "b:2"), index: Any = 0, job: Any = "worker") -> dict[str, Any]:
    return {"cluster": {"worker": machines}, "task": {"type": job, "index": index}}


def test_cluster_is_read() -> None:
    cluster = _read(_config(["10.0.0.1:2222", "node-2:2223"], 1))
    assert cluster is not None
    assert str(cluster.this) == "worker 1 (node-2:2223)"
    assert str(cluster.chief) == "worker 0 (10.0.0.1:2222)"
    assert cluster.jobs == {"worker": ["10.0.0.1:2222", "node-2:2223"]}


def test_cluster_with_a_chief_of_its_own_is_read() -> None:
    config = {
        "cluster": {"worker": ["b:2", "[::1]:3"], "chief": ["a:1"]},
        "task": {"type": "worker", "index": "1"},  # TensorFlow takes a text as well
        "environment": "cloud",
    }
    cluster = _read(config)
    assert cluster is not None
    assert str(cluster.this) == "worker 1 ([::1]:3)"
    assert str(cluster.chief) == "chief (a:1)"
    assert cluster.jobs == {"chief": ["a:1"], "worker": ["b:2", "[::1]:3"]}


@pytest.mark.parametrize(
    "config", ["", "{}", {"cluster": {}}, {"task": {"type": "worker"}}, _config(["a:1"])], ids=str
)
def test_cluster_of_one_machine_is_none(config: Any) -> None:
    assert _read(config) is None
    assert read_cluster({}) is None


MISTAKES: dict[str, tuple[Any, str]] = {
    "not JSON": (
        "{'cluster': {}}",
        r"is not JSON \(Expecting property .+\): \"{'cluster.+; an example: {\"cl",
    ),
    "cut off": ('{"cluster": {"worker": ["a:1"', "is not JSON"),
    "deep": ("[" * 100_000, r"is not JSON \(too large or too deep\)"),
    "a number of 5000 digits": ("1" * 5000, "is not JSON"),
    "a list": ([], r"must be an object, not \[\]"),
    "a list of long objects": (
        [{"0" * 99: 1.2345e300, "1" * 99: 1.2345e300}] * 9,
        r"must be an object, not \[{'000.{80,120}\.\.\.; an example",
    ),
    "no object in it": ({"cluster": ["a:1", "b:2"]}, r"cluster must be an object, not \['a:1', '"),
    "null": ({"cluster": None}, "cluster must be an object, not None"),
    "no task": (
        {"cluster": {"worker": ["a:1", "b:2"]}},
        "task must be an object, which is missing",
    ),
    "no list": (_config("a:1,b:2"), "cluster.worker must be a list of addresses, not 'a:1,b:2'"),
    "no port": (
        _config(["a:1", "b"]),
        r"cluster.worker\[1\] must be a machine and its port, .+'b'",
    ),
    "port 0": (_config(["a:1", "b:0"]), r"worker\[1\]: the port must be from 1 to 65535, not 0"),
    "port 65536": (_config(["a:65536", "b:2"]), r"cluster.worker\[0\]: the port must be from 1 to"),
    "a word as port": (_config(["a:x", "b:2"]), r"cluster.worker\[0\] must be a machine and its"),
    "a URL": (_config(["http://a:1", "b:2"]), r"worker\[0\] must be a .+, not 'http://a:1'"),
    "a number": (_config([1, "b:2"]), r"cluster.worker\[0\] must be a machine .+, not 1$"),
    "escapes": (_config(["\x1b[2Ja:1", "b:2"]), r"not '\\x1b\[2Ja:1'"),
    "the same twice": (_config(["a:1", "b:1", "A:1"]), "worker 0 and worker 2 have the same addr"),
    "index -1": (_config(index=-1), "task.index must be from 0 to 1, .+ has 2 addresses, not -1"),
    "index too large": (_config(index=2), "task.index must be from 0 to 1, .+, not 2;"),
    "index true": (_config(index=True), "task.index must be from 0 to 1, .+, not True"),
    "index null": (_config(index=None), "task.index must be from 0 to 1, .+, not None"),
    "no index": (
        {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker"}},
        "task.index must be from 0 to 1, .+, and it is missing",
    ),
    "index 1 of one": (_config(["a:1"], 1), "task.index must be 0, .+ has 1 address, not 1"),
    "unknown type": (_config(job="ps"), "task.type must be worker, as in cluster, not 'ps'"),
    "a type without machines": (_config(job="chief"), "task.type must be worker, .+ not 'chief'"),
    "no type": (
        {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"index": 0}},
        "task.type is missing; it must be worker",
    ),
    "unknown job": (
        {**_config(), "cluster": {"ps": ["a:1"], "worker": ["b:2"]}},
        "cluster has the job 'ps'; this training has the jobs chief and worker",
    ),
    "two chiefs": (
        {"cluster": {"chief": ["a:1", "b:2"]}, "task": {"type": "chief", "index": 0}},
        "cluster.chief has 2 addresses; there can be one chief",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_cluster_with_a_mistake_is_a_sentence(name: str) -> None:
    config, sentence = MISTAKES[name]
    with pytest.raises(UserError, match=rf"^TF_CONFIG: .*{sentence}") as raised:
        _read(config)
    assert str(raised.value).isprintable()  # in one line
    assert len(str(raised.value)) < 400


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_ADDRESSES = st.lists(st.sampled_from(["a:1", "b:2", "c:3", "[::1]:4"]) | st.text() | _JSON)
# Near enough to the right form to come past the first checks.
_NEAR = st.fixed_dictionaries(
    {},
    optional={
        "cluster": st.dictionaries(st.sampled_from(["chief", "worker", "ps"]), _ADDRESSES | _JSON)
        | _JSON,
        "task": st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(["chief", "worker", "ps"]) | _JSON,
                "index": st.integers(-1, 3) | _JSON,
            },
        )
        | _JSON,
    },
)


@given(st.text() | _JSON.map(json.dumps) | _NEAR.map(json.dumps))
def test_cluster_is_a_result_or_a_sentence_whatever_comes_in(text: str) -> None:
    cluster, sentence = None, "TF_CONFIG: "
    try:
        cluster = read_cluster({"TF_CONFIG": text})
    except UserError as error:
        sentence = str(error)
    assert sentence.startswith("TF_CONFIG: ")
    assert sentence.isprintable()
    assert len(sentence) < 400
    if cluster is not None:
        assert len(cluster.machines) > 1
        assert 0 <= cluster.own < len(cluster.machines)
        assert sum(map(len, cluster.jobs.values())) == len(cluster.machines)
