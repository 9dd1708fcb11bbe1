"""What f may do, what x may be, and how f is evaluated: none of it may give a wrong number without a word."""

import collections
import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

import nnframe as nn
from nnframe import numerical

X = np.array([0.3, -1.2, 2.0])
SCHEMES = ["auto", "forward", "central", "central4", "richardson"]


def close(got, expected, scheme="auto"):
    np.testing.assert_allclose(got, expected, atol=1e-6 if scheme == "forward" else 1e-8)


class Counting:
    def __init__(self, f=lambda v: float((v**3).sum())):
        self.f, self.calls = f, 0

    def __call__(self, v):
        self.calls += 1
        return self.f(v)


# ---- what f may do with its argument and its answer ----


@pytest.mark.parametrize("scheme", SCHEMES)
def test_f_works_in_place_on_its_argument(scheme):
    def f(v):
        v += 1  # x was destroyed
        return float(v @ v)

    x = X.copy()
    close(nn.numerical_gradient(f, x, scheme=scheme), 2 * (X + 1), scheme)
    np.testing.assert_array_equal(x, X)
    for kind in ("central", "auto"):  # the diagonal was 3.5e9 for 2
        np.testing.assert_allclose(nn.numerical_hessian(f, x, scheme=kind), 2 * np.eye(3), atol=1e-5)
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize("workers", [1, map], ids=["serial", "map"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_f_returns_keeps_or_reuses_arrays(scheme, workers):
    # the Jacobian of the identity by workers=map was 0: one copy served both sides
    close(nn.numerical_jacobian(lambda v: v, X, scheme=scheme, workers=workers), np.eye(3), scheme)
    close(nn.numerical_jacobian(lambda v: v[::-1], X, scheme=scheme, workers=workers), np.eye(3)[::-1], scheme)
    kept, out = [], np.empty(3)

    def keeps(v):
        kept.append(v)
        return kept[-1] if len(kept) < 3 else np.multiply(v, 1, out=out)

    close(nn.numerical_jacobian(keeps, X, scheme=scheme, workers=workers), np.eye(3), scheme)
    assert len({id(v) for v in kept}) == len(kept)


def test_whoever_else_holds_x_does_not_see_it_moved():
    data = X.copy()
    close(nn.numerical_jacobian(lambda p: p - data, data), np.eye(3))  # was 0
    close(nn.numerical_gradient(lambda p: float(((p - data) ** 2).sum() + p.sum()), data), np.ones(3))
    np.testing.assert_allclose(
        nn.numerical_hessian(lambda p: float(((p - data) ** 2).sum()), data), 2 * np.eye(3), atol=1e-6
    )


def test_a_function_that_remembers_its_last_argument():
    class Memo:
        x = value = None

        def __call__(self, v):
            if self.x is None or not np.array_equal(v, self.x):
                self.x, self.value = v, float(v @ v)  # keeps the array itself
            return self.value

    close(nn.numerical_gradient(Memo(), X.copy()), 2 * X)  # was 0


def test_threads_that_share_x():
    x = np.random.default_rng(0).standard_normal(50)
    before, found = x.copy(), []

    def work():
        found.extend(nn.numerical_gradient(lambda v: float(np.sin(v).sum()), x) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    for gradient in found:
        close(gradient, np.cos(before))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("layout", ["plain", "strided", "fortran", "big-endian"])
def test_f_reads_the_array_where_it_lives(scheme, layout):
    x = np.arange(6.0).reshape(2, 3) / 3 + 0.1
    x = {"plain": x, "strided": np.repeat(x, 2, axis=1)[:, ::2], "fortran": np.asfortranarray(x)}.get(
        layout, x.astype(">f8")
    )
    before = x.copy()
    close(nn.numerical_gradient(lambda _: float((x**3).sum()), x, scheme=scheme), 3 * before**2, scheme)
    np.testing.assert_array_equal(x, before)
    second = np.diag(6 * before.reshape(-1)).reshape(2, 3, 2, 3)
    np.testing.assert_allclose(nn.numerical_hessian(lambda _: float((x**3).sum()), x), second, atol=1e-5)
    nested = {"a": x, "b": [np.ones(2)]}
    found = nn.numerical_gradient(lambda _: float((x**3).sum() * nested["b"][0].sum()), nested, scheme=scheme)
    close(found["a"], 6 * before**2, scheme)

    def worse(_):
        value = float((x**3).sum())
        x[...] = 0  # leaves x changed
        return value

    close(nn.numerical_gradient(worse, x, scheme=scheme), 3 * before**2, scheme)
    np.testing.assert_array_equal(x, before)


def test_what_reads_x_where_it_lives_is_refused_where_that_cannot_be_moved():
    x = X.copy()
    frozen = x.view()
    frozen.flags.writeable = False
    numbers = [0.3, -1.2, 2.0]

    def f(_):
        return float(x @ x)

    for workers in (map, 2):
        with pytest.raises(ValueError, match="reads the array where it lives. Use workers=1"):
            nn.numerical_gradient(reads_global if workers == 2 else f, GLOBAL if workers == 2 else x, workers=workers)
    with pytest.raises(ValueError, match="Does it read x where it lives"):
        nn.numerical_gradient(f, frozen)
    with pytest.raises(ValueError, match="Does it read x where it lives"):
        nn.numerical_gradient(lambda _: float(np.sum(np.square(numbers))), numbers)
    np.testing.assert_array_equal(x, X)
    # what is flat, with workers as well, has the gradient 0
    close(nn.numerical_gradient(lambda v: float(np.floor(v + 0.1).sum()), x, workers=map), np.zeros(3))
    close(nn.numerical_gradient(lambda _: 2.0, x), np.zeros(3))
    close(nn.numerical_gradient(lambda _: 2.0, 0.5), 0)


GLOBAL = X.copy()


def reads_global(_):
    return float(GLOBAL @ GLOBAL)


def test_tied_arrays():
    w = X.copy()
    tied = {"a": w, "b": w}

    def f(v):
        return float(v["a"] @ v["a"] + 3 * v["b"].sum())

    for workers in (1, map):  # were 2x + 3 in one and apart in the other
        gradient = nn.numerical_gradient(f, tied, workers=workers)
        close(gradient["a"], 2 * X)
        close(gradient["b"], np.full(3, 3.0))
    with pytest.raises(ValueError, match="leaves 0 and 1 share memory"):
        nn.numerical_gradient(lambda _: float(w @ w), tied)


# ---- how often f is evaluated ----


@pytest.mark.parametrize(("scheme", "per_entry"), [("forward", 1), ("central", 2), ("central4", 4), ("richardson", 10)])
@pytest.mark.parametrize("n", [1, 4])
def test_counts(scheme, per_entry, n):
    x = np.linspace(0.5, 1, n)
    for f in (Counting(), Counting(lambda _: float((x**3).sum()))):  # follows its argument, reads x
        nn.numerical_gradient(f, x, scheme=scheme)
        assert f.calls == per_entry * n + (3 if f.f.__code__.co_varnames[0] == "v" else 5)
    f, g = Counting(), Counting(lambda v: v**3)
    nn.numerical_gradient(f, x, scheme=scheme, return_error=True)
    nn.numerical_jacobian(g, x, scheme=scheme)
    spare = {"forward": 1, "central": 2, "central4": 2, "richardson": 0}[scheme]
    assert f.calls == (per_entry + spare) * n + 6
    assert g.calls == per_entry * n + 3
    mapped = Counting()
    nn.numerical_gradient(mapped, x, scheme=scheme, workers=map)
    assert mapped.calls == per_entry * n + 3


def test_counts_of_the_others():
    f = Counting()
    numerical.central_difference(f, X)
    assert f.calls == 2 * 3 + 3
    f = Counting()
    nn.numerical_hessian(f, X)
    assert f.calls == 3 * 4 + 3
    for g in (lambda v: float(v @ v), lambda v: float(np.sin(v).sum()), lambda v: float(np.exp(v).prod())):
        f = Counting(g)
        nn.numerical_gradient(f, np.linspace(0.2, 1, 20))
        assert 4 * 20 + 8 <= f.calls <= 12 * 20 + 8
    f = Counting(lambda v: float((v > 0).sum()))
    with pytest.warns(RuntimeWarning, match="entry 0 of x to 10 %"):
        nn.numerical_gradient(f, np.zeros(2))
    assert f.calls <= 2 * 28 + 8


def test_counts_of_one_variable():
    x = np.array([0.7])
    for f, rungs in ((lambda v: 3 * v[0] + 1, 2), (lambda v: v[0] ** 3 - v[0], 3), (lambda v: np.sin(v[0]), 4)):
        counting = Counting(lambda v, f=f: float(f(v)))
        nn.numerical_gradient(counting, x)
        assert counting.calls == 2 * rungs + 2
        counting.calls = 0
        nn.numerical_gradient(counting, x, bounds=(x, x + 1))
        assert counting.calls <= 2 * rungs + 2
        counting.calls = 0
        nn.numerical_jacobian(lambda v, c=counting: np.array([c(v)] * 2), x)
        assert counting.calls == 2 * rungs + 2
        counting.calls = 0
        nn.numerical_gradient(counting, x, noise=1e-14)  # measured beforehand as for more variables
        assert counting.calls <= 2 * rungs + 8 + 2
    counting = Counting(lambda v: float(np.sin(v[0])) + 1e-7 * hash(float(v[0])) / 2**61)
    nn.numerical_gradient(counting, x)
    assert counting.calls <= 28 + 7


@pytest.mark.parametrize("size", [1e-12, 1e-8, 1e-3, 0.1, 10.0])
def test_one_variable_of_a_function_that_does_not_repeat_itself(size):
    random, count = np.random.default_rng(0), itertools.count()
    for noise in (
        random.standard_normal,
        lambda: random.integers(2),
        lambda: next(count),
        lambda: next(count) % 2,
    ):
        with pytest.raises(ValueError, match="same value for the same x"):
            nn.numerical_gradient(lambda v, noise=noise: float(np.sin(v[0])) + size * noise(), np.array([0.5]))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_variable_that_f_reads_or_changes_where_it_lives(shape):
    x = np.full(shape, 0.5)

    def leaves_zero(v):
        value = float(x.sum() ** 3)
        x[...] = 0
        return value

    def spoils(v):
        x[...] = 7
        return float(v.sum() ** 3)

    for f in (lambda _: float(x.sum() ** 3), leaves_zero, spoils):
        found = nn.numerical_gradient(f, x)
        assert found.shape == shape
        close(found, np.full(shape, 0.75))
        x[...] = 0.5
    with pytest.raises(ValueError, match="reads the array where it lives. Use workers=1"):
        nn.numerical_gradient(lambda _: float(x.sum() ** 3), x, workers=map)
    close(nn.numerical_gradient(lambda v: v.reshape(len(v)) ** 3, x, vectorized=True), np.full(shape, 0.75))


# ---- steps from the coarser dtype ----


@pytest.mark.parametrize("scheme", SCHEMES)
def test_float32_behind_a_float64_x(scheme):
    x = np.array([0.3, 1.1, -0.4])
    bound = 1e-2 if scheme == "forward" else 5e-4
    for f in (
        lambda v: np.float32(np.sin(v.astype(np.float32)).sum()),
        lambda v: float(np.float32(np.sin(v.astype(np.float32)).sum())),  # float32 in a Python float
        lambda v: np.sin(v).sum().astype(np.float16) if scheme == "none" else np.float32(np.sin(v).sum()),
    ):
        np.testing.assert_allclose(nn.numerical_gradient(f, x, scheme=scheme), np.cos(x), atol=bound)
    jacobian = nn.numerical_jacobian(lambda v: np.sin(v.astype(np.float32)), x, scheme=scheme)
    np.testing.assert_allclose(jacobian, np.diag(np.cos(x)), atol=bound)


def test_float32_within_a_float64_function(rng):
    model = nn.Sequential(nn.Linear(6, 5, rng=0), nn.Tanh(), nn.Linear(5, 3, rng=1))
    loss, t, x = nn.CrossEntropyLoss(), np.array([0, 2, 1, 1]), rng.standard_normal((4, 6))
    double = model.astype(np.float64)
    expected = nn.numerical_gradient(lambda v: loss(double(v), t), x)
    found, error = nn.numerical_gradient(lambda v: loss(model(v), t), x, return_error=True)  # was 34 % off
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    assert (np.abs(found - expected) <= 10 * error).all()
    hessian = nn.numerical_hessian(lambda v: np.float32(np.sin(v.astype(np.float32)).sum()), X)
    np.testing.assert_allclose(hessian, np.diag(-np.sin(X)), atol=5e-2)  # was [0 0 8]


# ---- workers ----


def cube(v):
    return float((v**3).sum())


def dies(v):
    if v[0] > X[0] and v[1] == X[1]:
        os._exit(3)
    return float(v.sum())


class Unportable(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


def raises(v):
    if v[0] > X[0] and v[1] == X[1]:
        raise Unportable(1, 2)
    return float(v.sum())


def test_processes_that_fail_are_an_error():
    with pytest.raises(RuntimeError, match="workers: a process ended before it had evaluated f"):  # waited for ever
        nn.numerical_gradient(dies, X, scheme="central", workers=2)
    with pytest.raises(RuntimeError, match="f: raised Unportable: 1 and 2"):
        nn.numerical_gradient(raises, X, scheme="central", workers=2)


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_processes_started_in_any_way(method, tmp_path):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, numpy as np, nnframe as nn\n"
        "def f(v):\n    return float((v**3).sum())\n"
        "if __name__ == '__main__':\n"
        f"    multiprocessing.set_start_method({method!r})\n"
        "    x = np.array([0.3, -1.2, 2.0])\n"
        "    print(np.abs(nn.numerical_gradient(f, x, workers=2) - 3 * x**2).max() < 1e-8)\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "True"


@pytest.mark.parametrize("scheme", ["auto", "central"])
def test_workers_of_any_kind(scheme):
    with concurrent.futures.ThreadPoolExecutor(2) as threads, concurrent.futures.ProcessPoolExecutor(2) as processes:
        for workers in (2, threads.map, processes.map, map):
            close(nn.numerical_gradient(cube, X, scheme=scheme, workers=workers), 3 * X**2)
            np.testing.assert_allclose(nn.numerical_hessian(cube, X, workers=workers), np.diag(6 * X), atol=1e-5)
        close(nn.numerical_jacobian(np.sin, X, scheme=scheme, workers=processes.map), np.diag(np.cos(X)))


@pytest.mark.filterwarnings("ignore")  # of these packages
def test_workers_of_other_packages():
    joblib = pytest.importorskip("joblib")

    def mapped(function, items):
        return joblib.Parallel(n_jobs=2, prefer="threads")(joblib.delayed(function)(item) for item in items)

    close(nn.numerical_gradient(cube, X, workers=mapped), 3 * X**2)


@pytest.mark.filterwarnings("ignore")
def test_workers_of_dask():
    dask = pytest.importorskip("dask")

    def mapped(function, items):
        return dask.compute(*[dask.delayed(function, traverse=False)(item) for item in items], scheduler="threads")

    close(nn.numerical_gradient(cube, X, workers=mapped), 3 * X**2)


@pytest.mark.filterwarnings("ignore")
def test_workers_of_mpi():
    futures = pytest.importorskip("mpi4py.futures")
    with futures.MPIPoolExecutor(1) as pool:
        close(nn.numerical_gradient(cube, X, workers=pool.map), 3 * X**2)


# ---- what x may be ----


@dataclasses.dataclass(frozen=True)
class Weights:
    w: np.ndarray
    b: float
    nothing: None = None


Pair = collections.namedtuple("Pair", "w b")


def nestings():
    w = X.copy()
    factory = collections.defaultdict(list, w=w, b=np.array(0.5))
    return {
        "dict": {"w": w, "b": np.array(0.5), "nothing": None},
        "ordered": collections.OrderedDict(b=np.array(0.5), w=w),
        "default": factory,
        "proxy": types.MappingProxyType({"w": w, "b": np.array(0.5)}),
        "namedtuple": Pair(w, np.array(0.5)),
        "dataclass": Weights(w, 0.5),
        "list": [w, np.array(0.5), None],
        "deep": {"a": [Pair(w, None), Weights(np.array([2.0]), 0.5)]},
    }


def parts(v):
    if isinstance(v, Pair | Weights):
        return v.w, v.b
    if isinstance(v, list):
        return v[0], v[1]
    return (v["a"][0].w, v["a"][1].b) if "a" in v else (v["w"], v["b"])


@pytest.mark.parametrize("workers", [1, map], ids=["serial", "map"])
@pytest.mark.parametrize("kind", list(nestings()))
def test_nestings_come_back_as_they_came(kind, workers):
    x = nestings()[kind]

    def f(v):
        assert type(v) is type(x)
        w, b = parts(v)
        return float((w @ w) * b)

    gradient = nn.numerical_gradient(f, x, workers=workers)
    assert type(gradient) is type(x)
    w, b = parts(gradient)
    close(w, X)
    close(b, X @ X)
    if kind == "default":
        assert gradient["new"] == []
    with pytest.raises(TypeError, match=r"x\.w: expected an array of float32 or float64, got int64"):
        nn.numerical_gradient(lambda v: 1.0, Pair(np.ones(2, int), 0.5))


def test_parameters(rng):
    weight = nn.Parameter(X, dtype=np.float64)
    close(nn.numerical_gradient(lambda p: float(p.value @ p.value), weight), 2 * X)
    close(nn.numerical_gradient(lambda _: float(weight.value @ weight.value), weight), 2 * X)
    found = nn.numerical_gradient(lambda p: float(p["w"].value @ p["w"].value), {"w": weight}, workers=map)
    close(found["w"], 2 * X)
    np.testing.assert_array_equal(weight.value, X)
    model = nn.Sequential(nn.Linear(3, 2, dtype=np.float64, rng=1))
    x, t, loss = rng.standard_normal((4, 3)), np.array([0, 1, 1, 0]), nn.CrossEntropyLoss()
    found = nn.numerical_gradient(lambda _: loss(model(x), t), list(model.parameters()))
    nn.Backprop()(model, loss, x, t)
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        close(gradient, parameter.grad)


def test_pandas():
    pd = pytest.importorskip("pandas")
    series = pd.Series(X, index=["a", "b", "c"], name="rate")
    gradient = nn.numerical_gradient(lambda v: float((v**2).sum() * v["a"]), series, bounds=(-5, 5))
    assert isinstance(gradient, pd.Series)
    assert list(gradient.index) == ["a", "b", "c"]
    assert gradient.name == "rate"
    close(gradient.to_numpy(), 2 * X * X[0] + np.array([X @ X, 0, 0]))
    frame = pd.DataFrame({"u": X, "v": X + 1})
    gradient = nn.numerical_gradient(lambda v: float((v["u"] * v["v"]).sum()), frame)
    assert list(gradient.columns) == ["u", "v"]
    close(gradient["u"], X + 1)
    assert list(nn.numerical_gradient(lambda v: float(v["s"].sum()), {"s": series})["s"].index) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="Does it read x where it lives"):
        nn.numerical_gradient(lambda _: 1.0, series)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_fixed_entries_are_left_out(scheme):
    seen = []

    def f(v):
        seen.append(v[1])
        return float((v**3).sum())

    gradient = nn.numerical_gradient(f, X, scheme=scheme, bounds=([-5, X[1], -5], [5, X[1], 5]))
    close(gradient, [3 * X[0] ** 2, np.nan, 3 * X[2] ** 2], scheme)
    assert set(seen) == {X[1]}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_too_little_room(scheme):
    x = np.array([1.0, 2.0])
    upper = np.array([np.nextafter(1, 2), 3])
    if scheme == "auto":
        with pytest.raises((ValueError, FloatingPointError), match="entry 0 of x"):
            nn.numerical_gradient(cube, x, scheme=scheme, bounds=(x, upper))
    else:
        with pytest.raises(ValueError, match="expected room for a step .* entry 0 of x, 1, can go down by 0"):  # nan
            nn.numerical_gradient(cube, x, scheme=scheme, bounds=(x, upper))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scalars_and_x_that_is_not_finite(scheme):
    assert nn.numerical_jacobian(np.sin, 0.5, scheme=scheme) == pytest.approx(np.cos(0.5), abs=1e-6)  # a crash
    assert nn.numerical_jacobian(np.sin, 0.5, scheme=scheme).shape == ()
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=rf"x: expected finite numbers, got {bad} at entry 1"):
            nn.numerical_gradient(cube, np.array([1.0, bad]), scheme=scheme)


def test_hessians_of_numbers():
    for scheme in ("central", "auto"):
        hessian = nn.numerical_hessian(lambda v: float(np.sin(v)), np.array(0.5), scheme=scheme)
        assert hessian.shape == ()
        assert hessian == pytest.approx(-np.sin(0.5), abs=1e-6)
        assert nn.numerical_hessian(lambda v: 0.0, np.zeros(0), scheme=scheme).shape == (0, 0)


# ---- noise, progress, what is left of an interrupted one ----


@pytest.mark.parametrize("scheme", SCHEMES)
def test_noise(scheme):
    def made():
        random = np.random.default_rng(0)
        return Counting(lambda v: float(np.sin(v).sum() + 1e-6 * random.standard_normal()))

    f = made()
    with pytest.raises(ValueError, match="same value for the same x, got .* and then .* noise=1e-3, or noise='auto'"):
        nn.numerical_gradient(f, X, scheme=scheme)
    assert f.calls == 2  # not after all of them
    for noise in (1e-6, "auto", True):
        gradient, error = nn.numerical_gradient(made(), X, scheme=scheme, noise=noise, return_error=True)
        np.testing.assert_allclose(gradient, np.cos(X), atol=2e-2 if scheme == "forward" else 2e-3)
        assert (np.abs(gradient - np.cos(X)) <= 10 * error).all()
    for wrong in (0, -1.0, np.nan, "much"):
        with pytest.raises(ValueError, match="noise: expected a finite number above 0, or 'auto'"):
            nn.numerical_gradient(made(), X, noise=wrong)
    with pytest.raises(ValueError, match="same value for the same x"):
        nn.numerical_hessian(made(), X)
    np.testing.assert_allclose(nn.numerical_hessian(made(), X, noise=1e-6), -np.diag(np.sin(X)), atol=0.1)


@pytest.mark.parametrize("workers", [1, map], ids=["serial", "map"])
def test_what_was_known_is_kept_on_an_error(workers):
    x = {"a": np.ones(2), "b": X.copy()}

    def f(v):
        if v["b"][1] != X[1] and v["b"][0] == X[0]:
            raise KeyboardInterrupt
        return float(v["a"] @ v["a"] + v["b"] @ v["b"])

    with pytest.raises(KeyboardInterrupt) as caught:
        nn.numerical_gradient(f, x, scheme="central", workers=workers)
    np.testing.assert_allclose(caught.value.partial["a"], [2, 2], rtol=1e-9)
    np.testing.assert_allclose(caught.value.partial["b"], [2 * X[0], np.nan, np.nan], rtol=1e-9)
    with pytest.raises(KeyboardInterrupt) as caught:
        nn.numerical_gradient(f, x, scheme="auto", workers=workers)
    np.testing.assert_allclose(caught.value.partial["a"], [2, 2], rtol=1e-9)

    def g(v):
        if v[1] != X[1] and v[0] == X[0]:
            raise RuntimeError("no")
        return v[:2] ** 2

    with pytest.raises(RuntimeError) as caught:
        nn.numerical_jacobian(g, X, scheme="central", workers=workers)
    np.testing.assert_allclose(caught.value.partial, [[2 * X[0], np.nan, np.nan], [0, np.nan, np.nan]], rtol=1e-9)


@pytest.mark.parametrize("options", [{}, {"workers": map}, {"vectorized": True}, {"scheme": "central"}])
def test_progress(options, capsys):
    seen = []
    stack = options.get("vectorized")
    f = Counting(lambda v: (v**3).sum(axis=-1) if stack else float((v**3).sum()))
    nn.numerical_gradient(f, X, progress=lambda done, total: seen.append((done, total)), **options)
    done, _ = zip(*seen, strict=True)
    assert list(done) == sorted(done)
    assert all(d <= t for d, t in seen)
    if not stack:
        assert done[-1] == f.calls
    nn.numerical_gradient(f, X, progress=True, **options)
    assert "evaluations" in capsys.readouterr().err
    with pytest.raises(TypeError, match="progress: expected True, False or a callable"):
        nn.numerical_gradient(f, X, progress=3)


def test_an_infinite_side_among_many_is_no_derivative():
    """Of many variables a quotient is relied on where it is finite: f is infinite wherever entry 3 grows."""
    x = np.linspace(1, 2, 200)
    with pytest.raises(FloatingPointError, match="expected a finite number, got none for entry 3 of x"):
        nn.numerical_gradient(lambda v: np.inf if v[3] > x[3] else float(v @ v), x)
