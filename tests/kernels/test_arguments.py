"""Shapes, numbers, flags and names: errors say which argument, what was expected and what came."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from calls import ABOVE, CLASSES, ENTRIES, INPUTS, OUTPUTS, ROWS, above, floats

from nnframe import kernels
from nnframe.kernels import _kernels, reference
from nnframe.kernels.reference_activations import ACTIVATIONS

# ---- what stands above a layer, and what is made of it ----


def test_shapes_that_do_not_fit_never_reach_c():
    a = {name: floats(*shape) for name, shape in ABOVE.items()}
    for name, message in (
        ("z", r"stages\[0\], x"),
        ("y", r"stages\[0\], y"),
        ("logits", "logits"),
        ("p", "probabilities"),
        ("t", "targets"),
    ):  # fmtskip
        for wrong in (a[name][:1], a[name][:, :1], a[name][0], np.zeros((ROWS, 9)), a[name].astype(np.float32), None):
            with pytest.raises((TypeError, ValueError), match=f"^{message}: expected"):
                above(a | {name: wrong})
    with pytest.raises(ValueError, match=r"stages\[1\], weight: expected shape \(out, 4\), got \(4, 3\)"):
        above(a | {"w": a["w"].T})
    with pytest.raises(ValueError, match=r"residual: expected shape \(6, 2\) behind the last stage, got \(6, 3\)"):
        above(a | {"w": a["w"][:2]})
    with pytest.raises(ValueError, match="loss: expected one of cross_entropy, squared_error, linear, got 'hinge'"):
        _kernels.Above(CLASSES, [], "hinge", a["residual"])
    with pytest.raises(TypeError, match=r"stages\[0\]: expected \(weight,\) or \(name, alpha, x, y\), got list"):
        _kernels.Above(CLASSES, [[a["w"]]], "squared_error", a["residual"])
    with pytest.raises(TypeError, match="above"):
        _kernels.difference_gradient(
            None, floats(ROWS, INPUTS), step=0.1, scale=1.0, grad_weight=floats(OUTPUTS, INPUTS)
        )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x": floats(ROWS + 1, INPUTS)}, r"x: expected shape \(6, in_features\), got \(7, 5\)"),
        ({"x": floats(ROWS)}, "x: expected shape"),
        ({"x": floats(ROWS, INPUTS).astype(np.float32)}, "x: expected float64"),
        ({"step": 0.0}, "step: expected a finite number above 0, got 0.0"),
        ({"step": None}, "step: expected a number, got None"),
        ({"scale": "much"}, "scale: expected a number, got 'much'"),
        ({"columns": floats(2, OUTPUTS, ENTRIES - 1)}, r"columns: expected shape \(2, 4, 36\), got \(2, 4, 35\)"),
        ({"columns": floats(1, OUTPUTS, ENTRIES)}, "columns: expected shape"),
        ({"wanted": np.ones((OUTPUTS, INPUTS), bool)}, r"wanted: expected an array of bool of shape \(4, 6\)"),
        ({"wanted": np.ones((OUTPUTS, INPUTS + 1))}, "wanted: expected an array of bool"),
        ({"counted": np.ones((ROWS, OUTPUTS), bool)}, r"counted: expected an array of bool of shape \(4, 6\)"),
        ({"units": range(2, 5)}, r"units: expected a range within 0 and 4, got range\(2, 5\)"),
        ({"units": range(-1, 2)}, "units: expected a range within"),
        (
            {"wanted": np.ones((OUTPUTS, INPUTS + 1), bool), "columns": floats(2, OUTPUTS, ENTRIES)},
            "wanted, columns: expected one of them at most, got both",
        ),
        ({"units": range(0, 4, 2)}, "units: expected a range of step 1"),
        ({"units": [0, 1]}, "units: expected a range of step 1 or None, got list"),
        ({"grad_weight": floats(OUTPUTS, INPUTS + 1)}, "grad_weight: expected float64 of shape"),
        ({"grad_bias": floats(OUTPUTS + 1)}, "grad_bias: expected float64 of shape"),
    ],
)
def test_difference_gradient_refuses(wrong, message):
    a = {name: floats(*shape) for name, shape in ABOVE.items()}
    own = {
        "x": floats(ROWS, INPUTS),
        "step": 0.1,
        "scale": 1.0,
        "grad_weight": floats(OUTPUTS, INPUTS),
        "grad_bias": floats(OUTPUTS),
    }
    before = own["grad_weight"].copy()
    call = own | wrong
    with pytest.raises((TypeError, ValueError), match=message):
        _kernels.difference_gradient(above(a), call.pop("x"), **call)
    np.testing.assert_array_equal(own["grad_weight"], before)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"distance": floats(ROWS + 1)}, r"distance: expected shape \(6,\), got \(7,\)"),
        ({"tolerance": None}, "tolerance: expected a number, got None"),
        ({"level": floats(ROWS, OUTPUTS).T}, "level: expected an aligned, writeable array in C order"),
        ({"bend": None}, "bend: expected an array, got None"),
        ({"doubtful": np.zeros((OUTPUTS, ROWS), np.uint8)}, "doubtful: expected bool of shape"),
        ({"state": np.zeros(OUTPUTS, np.int8)}, "state: expected uint8 of shape"),
        ({"columns": floats(OUTPUTS, 5, ROWS)}, r"columns: expected shape \(4, 6, 6\), got \(4, 5, 6\)"),
        ({"units": range(3, 9)}, "units: expected a range within 0 and 4"),
        (
            {"chosen": np.ones(OUTPUTS + 1, bool)},
            r"chosen: expected an array of bool of shape \(4,\), got bool of shape \(5,\)",
        ),
        ({"chosen": np.ones(OUTPUTS, int)}, "chosen: expected an array of bool"),
    ],
)
def test_difference_curves_refuses(wrong, message):
    a = {name: floats(*shape) for name, shape in ABOVE.items()}
    own = {"distance": floats(ROWS), "tolerance": 0.1, "level": floats(OUTPUTS, ROWS), "bend": floats(OUTPUTS, ROWS)}
    own |= {"doubtful": np.zeros((OUTPUTS, ROWS), bool), "state": np.zeros(OUTPUTS, np.uint8)}
    call = own | wrong
    with pytest.raises((TypeError, ValueError), match=message):
        _kernels.difference_curves(above(a), call.pop("distance"), **call)


def test_selected_products_refuses():
    own = {"a": floats(4, 6), "b": floats(6, 5), "entries": np.arange(3), "out": floats(3)}
    for wrong, message in (
        ({"b": floats(5, 5)}, r"a, b: expected shapes \(O, N\) and \(N, I\), got \(4, 6\) and \(5, 5\)"),
        ({"b": floats(6, 5).astype(np.float32)}, "b: expected"),
        ({"entries": np.array([0, 3, 3])}, "entries: expected ascending numbers in .0, 20., got 3 at position 2"),
        ({"entries": np.array([0, 3, 20])}, "entries: expected ascending numbers in .0, 20., got 20 at position 2"),
        ({"entries": np.array([-1, 3, 4])}, "entries: expected ascending numbers in .0, 20., got -1 at position 0"),
        ({"entries": np.zeros(3)}, "entries: expected int64 of shape"),
        ({"out": floats(4)}, "out: expected float64 of shape"),
    ):
        call = own | wrong
        before = call["out"].copy()
        with pytest.raises((TypeError, ValueError), match=message):
            _kernels.selected_products(**call)
        np.testing.assert_array_equal(call["out"], before)


def test_sparse_product_refuses():
    own = {"start": np.array([0, 1, 3]), "column": np.array([4, 0, 3]), "value": floats(3), "b": floats(5, 6)}
    for wrong, message in (
        ({"b": floats(5)}, r"b: expected shape \(inner, columns\), got \(5,\)"),
        ({"value": floats(2)}, r"value: expected shape \(3,\) like column, got \(2,\)"),
        ({"value": floats(3).astype(np.float32)}, "value: expected float64"),
        ({"column": np.array([4, 0, 5])}, r"column: expected numbers in \[0, 5\), got 5 at position 2"),
        ({"column": np.array([-1, 0, 3])}, r"column: expected numbers in \[0, 5\), got -1 at position 0"),
        ({"column": np.zeros(3)}, "column: expected int64 with one axis, got float64"),
        ({"start": np.array([0, 4, 3])}, "start: expected ascending numbers, got 3 after 4"),
        ({"start": np.array([0, 1, 2])}, "start: expected ascending numbers from 0 to 3"),
        ({"start": np.array([1, 1, 3])}, "start: expected ascending numbers from 0 to 3"),
        ({"start": np.zeros(0, int)}, "start: expected ascending numbers from 0 to 3"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            _kernels.sparse_product(**(own | wrong))


def test_moved_copies_refuses():
    own = {"x": floats(5), "index": np.zeros((1, 3), np.intp), "value": floats(2, 3), "out": floats(2, 5)}
    for wrong, message in (
        ({"x": np.arange(5)}, "x: expected an array of float32 or float64, got int64"),
        ({"x": floats(5).astype(np.float32)}, "x: expected float64 like the other arrays, got float32"),
        ({"index": np.array([[0, 5, 1]])}, r"index: expected numbers in \[0, 5\), got 5 at position 1"),
        ({"index": np.array([[0, 1, -1]])}, r"index: expected numbers in \[0, 5\), got -1 at position 2"),
        ({"index": np.zeros((1, 2), np.intp)}, r"index, value: expected int64 of shape \(R, m\)"),
        ({"index": np.zeros((0, 3), np.intp)}, "index, value: expected int64"),
        ({"index": np.zeros((1, 3))}, "index, value: expected int64"),
        ({"value": floats(3)}, "index, value: expected"),
        ({"out": floats(5, 2).T}, "out: expected an aligned, writeable array in C order"),
        ({"out": floats(2, 4)}, r"out: expected float64 of shape \(2, 5\), got float64 of shape \(2, 4\)"),
    ):
        call = own | wrong
        before = call["out"].copy()
        with pytest.raises((TypeError, ValueError), match=message):
            _kernels.moved_copies(*call.values())
        np.testing.assert_array_equal(call["out"], before)


def test_change_quotients_refuses():
    own = {
        "y": floats(4, 2, 3, 5, 1),
        "weight": floats(15),
        "noise": floats(15),
        "end": floats(4, 12),
        "step": floats(12),
        "first": 2,
        "resolved": 0.0,
        "out": floats(3, 12),
    }
    for wrong, message in (
        ({"y": floats(3, 2, 3, 5, 1)}, r"y: expected shape \(4, S, before, m, after\), got \(3, 2, 3, 5, 1\)"),
        ({"y": floats(4, 2, 15)}, "y: expected shape"),
        ({"y": own["y"].astype(np.float32)}, "y: expected float64"),
        ({"weight": floats(14)}, "weight, noise: expected 15 numbers as y has per move, got 14 and 15"),
        ({"noise": floats(16)}, "weight, noise: expected 15 numbers as y has per move, got 15 and 16"),
        ({"end": floats(4, 11)}, r"end, step: expected shapes \(4, K\) and \(K,\), got \(4, 11\) and \(12,\)"),
        ({"step": floats(12, 1)}, "end, step: expected"),
        ({"first": 3}, "first: expected room for 2 x 5 of 12 entries, got 3"),
        ({"first": -1}, "first: expected room"),
        ({"out": floats(3, 11)}, r"out: expected float64 of shape \(3, 12\)"),
        ({"out": None}, "out: expected an array, got None"),
    ):
        call = own | wrong
        before = None if call["out"] is None else call["out"].copy()
        with pytest.raises((TypeError, ValueError), match=message):
            _kernels.change_quotients(**call)
        assert before is None or np.array_equal(call["out"], before)


def test_central_quotients_refuses():
    about = 0.0, 0.0, 0.0, 0.0, 0.0
    for value, y, message in (
        (floats(3, 3), floats(3, 3), r"value, y: expected shape \(m, 2\) each, got \(3, 3\) and \(3, 3\)"),
        (floats(3, 2), floats(2, 2), r"value, y: expected shape \(m, 2\) each, got \(3, 2\) and \(2, 2\)"),
        (floats(6), floats(6), "value, y: expected shape"),
        (floats(3, 2), floats(3, 2).astype(np.float32), "y: expected float64"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            _kernels.central_quotients(value, y, *about)


def test_measured_slopes_refuses():
    own = {"value": floats(4, 3), "base": floats(3), "x": floats(3), "way": None, "size": floats(3)}
    own |= {"eps": 0.0, "close": 0.0, "noisy": 0.0, "slope": floats(3), "reach": floats(3), "left": np.ones(3, bool)}
    for wrong, message in (
        ({"value": floats(3, 3)}, r"value, size: expected shapes \(4, n\) and \(n,\), got \(3, 3\) and \(3,\)"),
        ({"size": floats(2)}, r"value, size: expected shapes .* got \(4, 3\) and \(2,\)"),
        ({"base": floats(4)}, r"base: expected shape of size \(3,\), got \(4,\)"),
        ({"x": None}, "base, x, way: expected base and x, or way alone"),
        ({"way": floats(4, 3)}, "base, x, way: expected base and x, or way alone"),
        ({"base": None, "x": None}, "base, x, way: expected base and x, or way alone"),
        ({"base": None, "x": None, "way": floats(3)}, r"way: expected shape of value \(4, 3\), got \(3,\)"),
        ({"slope": floats(4)}, r"slope: expected float64 of shape \(3,\), got float64 of shape \(4,\)"),
        ({"left": np.ones(3)}, r"left: expected bool of shape \(3,\), got float64"),
        ({"reach": None}, "reach: expected"),
    ):
        call = own | wrong
        before = [np.array(a, copy=True) for a in call.values() if isinstance(a, np.ndarray)]
        with pytest.raises((TypeError, ValueError), match=message):
            _kernels.measured_slopes(**call)
        for one, other in zip(before, [a for a in call.values() if isinstance(a, np.ndarray)], strict=True):
            np.testing.assert_array_equal(one, other)


def test_moved_along_refuses():
    for start, way, out, message in (
        (floats(3), floats(4), floats(3), r"start, way: expected the same shape, got \(3,\) and \(4,\)"),
        (floats(3), floats(3), floats(4), r"out: expected float64 of shape \(3,\), got float64 of shape \(4,\)"),
        (floats(3).astype(np.float32), floats(3), floats(3), "start: expected float64"),
        (floats(3), floats(3), None, "out: expected"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            _kernels.moved_along(start, way, 1.0, out)


def test_evaluate_moved_refuses():
    own = {"x": floats(5), "index": np.arange(3), "value": floats(3, 2), "out": floats(3, 2)}
    for wrong, message in (
        ({"x": np.arange(5)}, "x: expected an array of float32 or float64, got int64"),
        ({"index": np.array([0, 5, 1])}, r"index: expected numbers in \[0, 5\), got 5 at position 1"),
        ({"index": np.array([0, -1, 1])}, r"index: expected numbers in \[0, 5\), got -1"),
        ({"index": np.arange(2)}, r"index, value: expected int64 of shape \(m,\)"),
        ({"index": np.arange(3.0)}, r"index, value: expected int64"),
        ({"value": floats(3)}, "index, value: expected"),
        ({"out": floats(2, 3).T}, "out: expected an aligned, writeable array in C order"),
        ({"out": floats(2, 3)}, r"out: expected float64 of shape \(3, 2\), got float64 of shape \(2, 3\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            _kernels.evaluate_moved(1, 0, *(own | wrong).values())
    with pytest.raises(ValueError, match="f: expected the address of a function, got 0"):
        _kernels.evaluate_moved(0, 0, *own.values())


# ---- numbers, flags, names ----

X, G = floats(3, 4), floats(3, 4)


def loss(labels, **options):
    return kernels.softmax_cross_entropy(X, labels, **options)


def update(rule, *lists, **options):
    return kernels.optimizer_update(rule, *lists, **{"rate": 0.1} | options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: kernels.activation(["relu"], X),
            TypeError,
            r"activation: expected one of identity, .*got list \['relu'\]",
        ),
        (lambda: kernels.activation(None, X), TypeError, "activation: expected one of identity, .*got None"),
        (lambda: kernels.activation("elu", X, alpha="1"), TypeError, "alpha: expected a number, got '1'"),
        (
            lambda: kernels.activation("elu", X, alpha=X),
            TypeError,
            r"alpha: expected a number, got an array of float64 of shape \(3, 4\)",
        ),
        (
            lambda: kernels.activation("elu", X, alpha=10**400),
            ValueError,
            "alpha: expected a number in the range of a float",
        ),
        (lambda: kernels.linear(X, X, activation=X), TypeError, "activation: expected one of .* got an array"),
        (
            lambda: kernels.batched_matmul(X, X, transpose_a=X),
            TypeError,
            "transpose_a: expected True or False, got an array of float64",
        ),
        (
            lambda: kernels.batched_matmul(X, X, transpose_b=None),
            TypeError,
            "transpose_b: expected True or False, got None",
        ),
        (lambda: kernels.batched_matmul(X, X, transpose_b=2), TypeError, "transpose_b: expected True or False, got 2"),
        (
            lambda: kernels.linear_backward(X, X, X, weight_grad=X, input_gradient="no"),
            TypeError,
            "input_gradient: expected True or False, got 'no'",
        ),
        (
            lambda: kernels.linear_backward(X, X, X[:, :3], weight_grad=None),
            TypeError,
            "weight_grad: expected an array, got None",
        ),
        (lambda: kernels.batched_matmul([[1.0], [1.0, 2.0]], X), ValueError, "a: expected an array, got list"),
        (lambda: kernels.batched_matmul(X, X.T, out=[[1.0]]), TypeError, "out: expected an array, got list"),
        (lambda: loss([0, 1, 2], reduction=None), TypeError, "reduction: expected 'mean' or 'sum', got None"),
        (lambda: loss([0, 1, 2], reduction=["mean"]), TypeError, "reduction: expected 'mean' or 'sum', got list"),
        (lambda: loss([0, [1], 2]), ValueError, "labels: expected an array, got list"),
        (lambda: loss([0, 1, 2], weight=[[1.0], 2.0]), ValueError, "weight: expected an array, got list"),
        (
            lambda: loss([0, 1, 2], ignore_index=2**64),
            ValueError,
            "ignore_index: expected a number that int64 holds, got 18446744073709551616",
        ),
        (
            lambda: loss([0, 1, 2], ignore_index=-(2**63)),
            ValueError,
            "ignore_index: expected a number that int64 holds",
        ),
        (
            lambda: loss([0, -(2**63), 2]),
            ValueError,
            r"class indices in \[0, 4\), got -9223372036854775808 at position 1",
        ),
        (lambda: update("sgd", [X], [G], rate=None), TypeError, "rate: expected a number, got None"),
        (
            lambda: update("adam", [X], [G], [G.copy()], [G + 1], rate=0.1, beta1=(0.9, 0.99)),
            TypeError,
            "beta1: expected a number, got tuple",
        ),
        (lambda: update(["sgd"], [X], [G]), TypeError, "rule: expected one of sgd, .*, got list"),
        (lambda: update("sgdd", [X], [G]), ValueError, "rule: expected one of sgd, .*, got 'sgdd'"),
        (
            lambda: update("momentum", [X], [G], None),
            ValueError,
            "means: expected 1 arrays, one for each value, got None",
        ),
    ],
)
def test_errors_name_the_argument(call, error, message):
    before = X.copy()
    with pytest.raises(error, match=message):
        call()
    np.testing.assert_array_equal(X, before)


def test_numbers_and_flags_of_any_kind_are_taken():
    expected = kernels.activation("elu", X - 1, alpha=2.0)
    for alpha in (2, np.float32(2), np.int64(2), np.array(2.0)):
        np.testing.assert_array_equal(kernels.activation("elu", X - 1, alpha=alpha), expected)
    for flag in (1, np.True_, True):
        np.testing.assert_array_equal(kernels.batched_matmul(X, X, transpose_b=flag), X @ X.T)


def test_unsigned_labels_and_an_ignored_one():
    labels = np.array([0, 255, 2], np.uint64)
    for kind in (np.uint64, np.uint8, np.int64):
        loss, gradient = kernels.softmax_cross_entropy(X, labels.astype(kind), ignore_index=255)
        assert loss == kernels.softmax_cross_entropy_loss(X[[0, 2]], [0, 2])
        assert not gradient[1].any()
    wrapped = np.array([0, 2**64 - 100, 2], np.uint64)  # as int64 it would be the ignored one
    with pytest.raises(ValueError, match=r"class indices in \[0, 4\), got 18446744073709551516 at position 1"):
        kernels.softmax_cross_entropy(X, wrapped, ignore_index=-100)


# ---- activations: names, defaults, documentation ----


def first_column(function):
    """Names in the first column of the table in a docstring."""
    lines = [line.strip() for line in function.__doc__.splitlines()]
    first, last = [i for i, line in enumerate(lines) if line.startswith("====")]
    return [line.split()[0] for line in lines[first + 1 : last]]


def test_every_activation_and_rule_is_documented():
    assert sorted(first_column(kernels.activation)) == sorted(_kernels.activation_names()) == sorted(ACTIVATIONS)
    names = ", ".join(first_column(kernels.optimizer_update))
    with pytest.raises(ValueError, match=f"expected one of {names}, got"):
        update("none", [], [])


def test_the_references_have_the_same_defaults(rng):
    x = rng.standard_normal(9)
    for name in ACTIVATIONS:
        np.testing.assert_allclose(kernels.activation(name, x), reference.activation(name, x), rtol=1e-12, atol=1e-15)


def test_alpha_has_the_default_of_the_activation(simd, dtype):
    x = np.linspace(-2, 2, 9).astype(dtype)
    for name, alpha in (("elu", 1.0), ("leaky_relu", 0.01)):
        y = kernels.activation(name, x)
        np.testing.assert_array_equal(y, kernels.activation(name, x, alpha=alpha))
        assert (y[:4] < 0).all()
        for call in (kernels.activation_backward, kernels.activation_difference):
            np.testing.assert_array_equal(call(name, x, y, x), call(name, x, y, x, alpha=alpha))
        for given in (None, 0.5):
            layer = kernels.linear(x[None], np.eye(9, dtype=dtype), activation=name, alpha=given)
            np.testing.assert_allclose(layer[0], kernels.activation(name, x, alpha=given), rtol=1e-6)


# ---- memory ----


@pytest.mark.skipif(
    sys.platform != "linux" or "asan" in os.environ.get("LD_PRELOAD", ""), reason="needs a limit of the address space"
)
def test_want_of_memory_is_never_a_wrong_loss():
    code = """
import resource
import numpy as np
from nnframe import kernels
for rows, classes in ((1, 20_000_000), (20_000_000, 1)):
    x = np.ones((rows, classes), np.float32)
    labels, weight = np.zeros(rows, int), np.ones(classes)
    size = int(open("/proc/self/statm").read().split()[0]) * 4096
    for room in (20, 60, 100, 200):
        resource.setrlimit(resource.RLIMIT_AS, (size + (room << 20), resource.RLIM_INFINITY))
        for options in ({}, {"weight": weight}, {"label_smoothing": 0.1}):
            try:
                loss = kernels.softmax_cross_entropy_loss(x, labels, **options)
            except MemoryError:
                continue
            assert abs(loss - np.log(classes)) < 1e-3, (rows, classes, room, options, loss)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)


# ---- the tables of the C sources ----


@pytest.mark.parametrize(
    ("table", "line", "missing"),
    [
        ("activations.def", 'NNF_ACTIVATION(SOFTSIGN, "softsign", 0.0)', "NNF_SOFTSIGN"),
        ("rules.def", 'NNF_RULE(LAMB, "lamb", 1, 1, 0)', "NNF_LAMB"),
    ],
)
def test_a_line_without_its_formula_does_not_compile(tmp_path, table, line, missing):
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler")
    sources = shutil.copytree(Path(__file__).parents[2] / "csrc", tmp_path / "csrc")
    check = [compiler, "-std=c11", "-fsyntax-only", "-I", sources, sources / "isa_scalar.c"]
    subprocess.run(check, check=True)
    path = sources / table
    path.write_text(path.read_text().replace("#undef", f"{line}\n#undef"))
    found = subprocess.run(check, capture_output=True, text=True)
    assert found.returncode != 0
    assert missing in found.stderr


# ---- random numbers ----


def test_uniform_numbers_are_those_of_the_reference(simd, dtype):
    keys = np.array([0, 1, 2**64 - 1, 12345678901234567890], np.uint64)
    for columns in (0, 1, 7, 40, 40_000):
        found = kernels.uniform(keys, columns, dtype)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, reference.uniform(keys, columns))
    assert 0 <= found.min() < 1e-3 < 1 - 1e-3 < found.max() < 1
    np.testing.assert_array_equal(kernels.uniform(keys[::-2], 5, dtype), reference.uniform(keys[::-2], 5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], 3, np.float32), "keys: expected an array of uint64"),
        ((np.zeros(3), 3, np.float32), "keys: expected an array of uint64"),
        ((np.zeros(3, np.uint64), -1, np.float32), "columns: expected a whole number >= 0, got -1"),
        ((np.zeros(3, np.uint64), 3, np.int32), "dtype: expected float32 or float64"),
    ],
)
def test_uniform_refuses(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        kernels.uniform(*arguments)
