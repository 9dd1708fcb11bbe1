"""Optimizers against their formulas, step by step."""

import inspect

import numpy as np
import pytest

import nnframe as nn
from nnframe import kernels
from nnframe.kernels import _kernels, reference


def parameters(rng, dtype):
    made = [nn.Parameter(rng.standard_normal((3, 4)), dtype), nn.Parameter(rng.standard_normal(5), dtype)]
    for parameter in made:
        parameter.grad[...] = rng.standard_normal(parameter.grad.shape)
    return made


def run(optimizer, gradients):
    for step in gradients:
        for parameter, gradient in zip(optimizer.parameters, step, strict=True):
            parameter.grad[...] = gradient
        optimizer.step()
    return [p.value for p in optimizer.parameters]


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sgd(dtype, rng, momentum, nesterov, weight_decay):
    made = parameters(rng, dtype)
    values = [p.value.astype(np.float64) for p in made]
    gradients = [[rng.standard_normal(v.shape).astype(dtype) for v in values] for _ in range(4)]
    velocities = [np.zeros_like(v) for v in values]
    for step in gradients:
        for w, v, g in zip(values, velocities, step, strict=True):
            g = g + weight_decay * w
            v[...] = momentum * v + g
            w -= 0.05 * ((g + momentum * v) if nesterov else v)
    for actual, expected in zip(
        run(nn.SGD(made, 0.05, momentum, 0.0, weight_decay, nesterov), gradients), values, strict=True
    ):
        assert actual.dtype == dtype
        np.testing.assert_allclose(actual, expected, rtol=0, atol=40 * np.finfo(dtype).eps)


def adam(g, w, m, s, t, decoupled):
    w *= 1 - 0.01 * decoupled
    m[...] = 0.8 * m + 0.2 * g
    s[...] = 0.95 * s + 0.05 * g * g
    w -= 0.01 * (m / (1 - 0.8**t)) / (np.sqrt(s / (1 - 0.95**t)) + 1e-3)


def adagrad(g, w, m, s, t):
    s += g * g
    w -= 0.02 * g / (np.sqrt(s) + 1e-3)


def rmsprop(g, w, m, s, t):
    s[...] = 0.9 * s + 0.1 * g * g
    w -= 0.02 * g / (np.sqrt(s) + 1e-3)


RULES = {
    "Adam": (lambda p, decay: nn.Adam(p, 0.01, (0.8, 0.95), 1e-3, decay), lambda *a, decay: adam(*a, 0.0)),
    "AdamW": (lambda p, decay: nn.AdamW(p, 0.01, (0.8, 0.95), 1e-3, decay), lambda *a, decay: adam(*a, decay)),
    "AdaGrad": (lambda p, decay: nn.AdaGrad(p, 0.02, eps=1e-3, weight_decay=decay), lambda *a, decay: adagrad(*a)),
    "RMSprop": (lambda p, decay: nn.RMSprop(p, 0.02, 0.9, 1e-3, decay), lambda *a, decay: rmsprop(*a)),
}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", RULES)
def test_adaptive_rules(simd, dtype, rng, name, weight_decay):
    make, rule = RULES[name]
    made = parameters(rng, dtype)
    values = [p.value.astype(np.float64) for p in made]
    gradients = [[rng.standard_normal(v.shape).astype(dtype) for v in values] for _ in range(4)]
    m, s = [np.zeros_like(v) for v in values], [np.zeros_like(v) for v in values]
    for t, step in enumerate(gradients, 1):
        for i, g in enumerate(step):
            g = g.astype(np.float64) + (weight_decay * values[i] if name != "AdamW" else 0)
            rule(g, values[i], m[i], s[i], t, decay=weight_decay)
    for actual, expected in zip(run(make(made, weight_decay), gradients), values, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=40 * np.finfo(dtype).eps)


STATES = {
    "sgd": "", "momentum": "m", "nesterov": "m", "adagrad": "s", "rmsprop": "s", "adam": "ms", "centered": "ms",
    "amsgrad": "msk", "nadam": "ms", "radam": "ms", "lion": "m", "rprop": "ms",
    "rmsprop_momentum": "ms", "centered_momentum": "msk",
}  # fmt: skip


@pytest.mark.parametrize("rule", STATES)
def test_kernel_and_twin_agree_at_any_size(simd, dtype, rng, rule):
    for n in (0, 1, 7, 16, 33, 100000):
        w, g, m = (rng.standard_normal(n).astype(dtype) for _ in range(3))
        s, k = (
            rng.uniform(0, 1, n).astype(dtype) + rule.startswith("centered") * (m * m + dtype(0.3)) for _ in range(2)
        )
        constants = {"rate": 0.1, "decay": 0.01, "shrink": 0.001, "beta1": 0.9, "beta2": 0.99, "eps": 1e-3, "gain": 0.7}
        twin = [w.copy(), m.copy(), s.copy(), k.copy()]
        states = (a if name in STATES[rule] else None for name, a in zip("msk", twin[1:], strict=True))
        reference.optimizer_update(rule, twin[0], g, *states, **constants)
        kernels.optimizer_update(rule, [w], [g], [m], [s], [k], **constants)
        for actual, expected in zip((w, m, s, k), twin, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=20 * np.finfo(dtype).eps)


def test_values_of_any_layout(dtype, rng):
    whole = rng.standard_normal((6, 8)).astype(dtype)
    strided, plain = whole.copy()[::-2, ::3], whole[::-2, ::3].copy()
    g = rng.standard_normal(plain.shape[::-1]).astype(dtype).T
    states = [np.zeros_like(plain) for _ in range(4)]
    kernels.optimizer_update("adam", [strided], [g], states[:1], states[1:2], rate=0.1, beta1=0.9, beta2=0.9, eps=1e-3)
    kernels.optimizer_update("adam", [plain], [g], states[2:3], states[3:], rate=0.1, beta1=0.9, beta2=0.9, eps=1e-3)
    np.testing.assert_allclose(strided, plain, rtol=0, atol=20 * np.finfo(dtype).eps)


def test_kernel_refuses_before_it_writes(dtype):
    w, g = np.ones(3, dtype), np.ones(3, dtype)
    wrong = np.ones(4, dtype)
    frozen = np.ones(3, dtype)
    frozen.flags.writeable = False
    for values, gradients, message in (
        (
            [w, w.copy()],
            [g, wrong],
            r"gradients\[1\]: expected float(32|64) of shape \(3,\) like its value, got .*\(4,\)",
        ),
        ([w, frozen], [g, g], r"values\[1\]: expected an array that can be written"),
        ([w], [g, g], "gradients: expected 1 arrays, one for each value, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            kernels.optimizer_update("sgd", values, gradients, rate=0.1)
    with pytest.raises(ValueError, match="rule: expected one of sgd, .*, got 'newton'"):
        kernels.optimizer_update("newton", [w], [g], rate=0.1)
    with pytest.raises(ValueError, match="means: expected 1 arrays"):
        kernels.optimizer_update("momentum", [w], [g], rate=0.1)
    with pytest.raises(TypeError, match=r"values\[0\]: expected an array of float32 or float64, got int64"):
        kernels.optimizer_update("sgd", [np.arange(3)], [g], rate=0.1)
    assert (w == 1).all()


def test_all_finite(simd, dtype):
    for n in (0, 1, 15, 16, 17, 1000):
        x = np.ones(n, dtype)
        assert kernels.all_finite(x)
        for at in {0, n // 2, n - 1} if n else ():
            for bad in (np.nan, np.inf, -np.inf):
                x[at] = bad
                assert not kernels.all_finite(x)
                x[at] = 1


def test_a_parabola_is_minimised():
    for make in (lambda p: nn.SGD(p, 0.1), lambda p: nn.SGD(p, 0.05, 0.9, nesterov=True), lambda p: nn.Adam(p, 0.1)):
        parameter = nn.Parameter([3.0, -2.0], np.float64)
        optimizer = make([parameter])
        for _ in range(300):
            parameter.grad[...] = 2 * (parameter.value - 1)
            optimizer.step()
        np.testing.assert_allclose(parameter.value, 1, atol=1e-3)


def test_a_failed_step_changes_nothing(rng):
    made = parameters(rng, np.float64)
    optimizer = nn.SGD(made, 0.1, 0.9)
    before = made[0].value.copy()
    with pytest.raises(ValueError, match=r"grad: expected shape \(5,\) like the parameter's value, got \(4,\)"):
        made[1].grad = np.zeros(4)
    optimizer.lr = float("nan")
    with pytest.raises(ValueError, match="lr: expected a finite number >= 0, got nan"):
        optimizer.step()
    np.testing.assert_array_equal(made[0].value, before)
    assert not optimizer.velocities[0].any()


def test_zero_grad(rng):
    made = parameters(rng, np.float32)
    nn.Adam(made).zero_grad()
    assert not any(p.grad.any() for p in made)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: nn.SGD([], 0.1), ValueError, "parameters: expected at least one"),
        (lambda p: nn.SGD([p, p], 0.1), ValueError, "each Parameter once"),
        (lambda p: nn.SGD([p.value], 0.1), TypeError, "expected Parameter objects, got ndarray"),
        (lambda p: nn.SGD([p], -0.1), ValueError, "lr: expected a finite number >= 0, got -0.1"),
        (lambda p: nn.SGD([p], float("nan")), ValueError, "lr: expected a finite number"),
        (lambda p: nn.SGD([p], "fast"), TypeError, "lr: expected a number, got 'fast'"),
        (lambda p: nn.SGD([p], 0.1, momentum=1.0), ValueError, r"momentum: expected a number in \[0, 1\), got 1.0"),
        (lambda p: nn.SGD([p], 0.1, nesterov=True), ValueError, "nesterov: expected a momentum above 0"),
        (lambda p: nn.Adam([p], betas=(0.9, 1.5)), ValueError, r"betas\[1\]: expected a number in \[0, 1\), got 1.5"),
    ],
)
def test_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(nn.Parameter([1.0]))


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (nn.SGD, "lr", float("nan")),
        (nn.SGD, "weight_decay", float("nan")),
        (nn.SGD, "momentum", float("nan")),
        (nn.SGD, "momentum", 1.0),
        (nn.Adam, "betas", (0.9,)),
        (nn.Adam, "betas", 3),
        (nn.Adam, "betas", (0.9, 1.0)),
        (nn.AdamW, "eps", -1.0),
        (nn.RMSprop, "alpha", 2.0),
        (nn.AdaGrad, "eps", float("inf")),
    ],
)
def test_settings_assigned_between_steps_are_checked_before_anything_changes(make, name, value):
    parameter = nn.Parameter([1.0, 2.0])
    parameter.grad = [1, 1]
    optimizer = make([parameter], lr=0.1)
    setattr(optimizer, name, value)
    with pytest.raises((TypeError, ValueError), match=rf"^{name}"):
        optimizer.step()
    np.testing.assert_array_equal(parameter.value, [1, 2])


def test_momentum_assigned_after_some_steps_is_used():
    values = []
    for start in (0.0, 0.9):
        parameter = nn.Parameter([1.0], np.float64)
        optimizer = nn.SGD([parameter], lr=0.1, momentum=start)
        optimizer.momentum = 0.9
        for _ in range(3):
            parameter.grad = parameter.value
            optimizer.step()
        values.append(parameter.value[0])
    assert values[0] == values[1]


PYTORCH = [
    *(
        ("SGD", {"lr": 0.05, "momentum": m, "dampening": d, "weight_decay": w})
        for m in (0.0, 0.9)
        for d in (0.0, 0.3)
        for w in (0.0, 0.1)
    ),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    *(
        ("RMSprop", {"lr": 0.02, "alpha": 0.9, "centered": c, "weight_decay": w, "momentum": m})
        for c in (False, True)
        for w in (0.0, 0.1)
        for m in (0.0, 0.8)
    ),
    *(
        (name, {"lr": 0.02, "betas": b, "amsgrad": a, "weight_decay": w})
        for name in ("Adam", "AdamW")
        for b in ((0.9, 0.999), (0.0, 0.5))
        for a in (False, True)
        for w in (0.0, 0.1)
    ),
    *(
        ("NAdam", {"lr": 0.02, "betas": b, "weight_decay": w, "decoupled_weight_decay": d, "momentum_decay": m})
        for b in ((0.9, 0.999), (0.0, 0.5))
        for w in (0.0, 0.1)
        for d in (False, True)
        for m in (4e-3, 0.5)
    ),
    *(
        ("RAdam", {"lr": 0.02, "betas": b, "weight_decay": w, "decoupled_weight_decay": d})
        for b in ((0.9, 0.999), (0.9, 0.99), (0.0, 0.5))
        for w in (0.0, 0.1)
        for d in (False, True)
    ),
    *(
        ("AdaGrad", {"lr": 0.1, "lr_decay": d, "initial_accumulator_value": i, "weight_decay": w})
        for d in (0.0, 0.2)
        for i in (0.0, 0.5)
        for w in (0.0, 0.1)
    ),
    *(("Adam", {"lr": 0.02, "decoupled_weight_decay": True, "amsgrad": a, "weight_decay": 0.1}) for a in (False, True)),
    *(
        (name, {"lr": 0.02, "maximize": True, **more})
        for name, more in (
            ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
            ("AdaGrad", {"weight_decay": 0.1}),
            ("RMSprop", {"momentum": 0.5, "centered": True}),
            ("Adam", {"weight_decay": 0.1}),
            ("AdamW", {"amsgrad": True}),
            ("NAdam", {}),
            ("RAdam", {}),
            ("Rprop", {}),
        )
    ),
    *(
        ("Rprop", {"lr": 0.02, "etas": e, "step_sizes": s})
        for e in ((0.5, 1.2), (0.3, 2))
        for s in ((1e-6, 50), (0.01, 0.1))
    ),
]


@pytest.mark.parametrize(("name", "options"), PYTORCH, ids=lambda value: str(value))
def test_twenty_steps_as_pytorch(rng, request, name, options):
    torch = pytest.importorskip("torch")
    made = parameters(rng, np.float64)
    theirs = [torch.from_numpy(p.value.copy()).requires_grad_() for p in made]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # NAdam keeps its product of momenta in this one
    request.addfinalizer(lambda: torch.set_default_dtype(before))
    rule = getattr(torch.optim, {"AdaGrad": "Adagrad"}.get(name, name))
    optimizer, other = getattr(nn, name)(made, **options), rule(theirs, **options)
    target = [rng.standard_normal(p.value.shape) for p in made]
    for step in range(20):
        for parameter, tensor, t in zip(made, theirs, target, strict=True):
            noise = 0.3 * rng.standard_normal(t.shape) * (step % 3 == 0)
            parameter.grad[...] = 2 * (parameter.value - t) + noise
            tensor.grad = torch.from_numpy(2 * (tensor.detach().numpy() - t) + noise)
        optimizer.step()
        other.step()
        for parameter, tensor in zip(made, theirs, strict=True):
            np.testing.assert_allclose(parameter.value, tensor.detach().numpy(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lion(dtype, rng, weight_decay):
    # PyTorch has none: Chen et al. 2023, algorithm 2, line by line
    made = parameters(rng, dtype)
    values = [p.value.astype(np.float64) for p in made]
    means = [np.zeros_like(v) for v in values]
    gradients = [[rng.standard_normal(v.shape).astype(dtype) for v in values] for _ in range(20)]
    for step in gradients:
        for w, m, g in zip(values, means, step, strict=True):
            c = 0.8 * m + 0.2 * g
            w -= 0.05 * (np.sign(c) + weight_decay * w)
            m[...] = 0.95 * m + 0.05 * g
    found = run(nn.Lion(made, 0.05, (0.8, 0.95), weight_decay), gradients)
    for actual, expected in zip(found, values, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=200 * np.finfo(dtype).eps)


@pytest.mark.skipif("avx512" not in _kernels.simd_available(), reason="needs AVX-512")
@pytest.mark.parametrize("rule", STATES)
def test_avx2_gives_the_bits_of_avx512(dtype, rule):
    before, found = _kernels.get_simd(), []
    for isa in ("avx2", "avx512"):
        _kernels.set_simd(isa)
        rng = np.random.default_rng(0)
        w, g, m, s, k = (rng.uniform(0.1, 1, 1003).astype(dtype) * rng.choice([-1, 1], 1003) for _ in range(5))
        s, k = s * s + m * m, k * k
        w, g, m, s, k = (np.ascontiguousarray(a, dtype) for a in (w, g, m, s, k))
        constants = {"rate": 0.1, "decay": 0.01, "shrink": 1e-3, "beta1": 0.9, "beta2": 0.99, "eps": 1e-3, "gain": 0.7}
        kernels.optimizer_update(rule, [w], [g], [m], [s], [k], **constants)
        found.append((w, m, s, k))
    _kernels.set_simd(before)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("make", [nn.Lion, nn.Rprop, nn.RAdam, nn.NAdam, lambda p: nn.RMSprop(p, centered=True)])
def test_a_parameter_that_is_not_trainable_stays(rng, make):
    made = parameters(rng, np.float64)
    made[0].trainable = False
    before = [p.value.copy() for p in made]
    optimizer = make(made)
    optimizer.step()
    np.testing.assert_array_equal(made[0].value, before[0])
    assert (made[1].value != before[1]).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: nn.SGD([p], 0.1, 0.9, 0.1, nesterov=True), ValueError, "nesterov: expected a dampening of 0"),
        (lambda p: nn.SGD([p], 0.1, 0.9, dampening=-1), ValueError, "dampening: expected a finite number >= 0, got -1"),
        (lambda p: nn.RMSprop([p], centered=1), TypeError, "centered: expected True or False, got 1"),
        (lambda p: nn.Adam([p], amsgrad="yes"), TypeError, "amsgrad: expected True or False, got 'yes'"),
        (lambda p: nn.NAdam([p], momentum_decay=-1), ValueError, "momentum_decay: expected a finite number >= 0"),
        (lambda p: nn.Rprop([p], etas=(1.2, 0.5)), ValueError, "etas: expected one between 0 and 1, then one above 1"),
        (lambda p: nn.Rprop([p], etas=0.5), TypeError, "etas: expected two numbers, got 0.5"),
        (lambda p: nn.Rprop([p], step_sizes=(2, 1)), ValueError, "step_sizes: expected the least, then the largest"),
        (lambda p: nn.Lion([p], betas=(0.9, 1)), ValueError, r"betas\[1\]: expected a number in \[0, 1\), got 1"),
    ],
)
def test_more_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(nn.Parameter([1.0]))


def test_what_was_made_without_a_state_is_refused_later():
    parameter = nn.Parameter([1.0])
    for optimizer, name in ((nn.Adam([parameter]), "amsgrad"), (nn.RMSprop([parameter]), "centered")):
        setattr(optimizer, name, True)
        with pytest.raises(ValueError, match=f"{name}: expected what the optimizer was made with"):
            optimizer.step()
    assert parameter.value[0] == 1


def test_arguments_come_in_the_order_of_pytorch():
    torch = pytest.importorskip("torch")
    for name in ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "NAdam", "RAdam", "Rprop"):
        ours = inspect.signature(getattr(nn, {"Adagrad": "AdaGrad"}.get(name, name))).parameters
        theirs = inspect.signature(getattr(torch.optim, name)).parameters
        positional = [n for n, p in ours.items() if p.kind is not p.KEYWORD_ONLY][1:]
        assert positional == list(theirs)[1 : len(positional) + 1], name
        assert set(theirs) - set(ours) <= {"params", "foreach", "fused", "capturable", "differentiable"}


def test_a_momentum_in_the_place_of_a_flag_is_refused():
    with pytest.raises(TypeError, match=r"nesterov: expected True or False, got 0\.9"):
        nn.SGD([nn.Parameter([1.0])], 0.1, 0.5, 0.0, 0.0, 0.9)
