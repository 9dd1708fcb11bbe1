"""Schedules, groups of parameters, and the state of an optimizer."""

import math

import numpy as np
import pytest

import nnframe as nn
from nnframe import optimizers

SCHEDULES = [
    optimizers.StepDecay(0.5, 7, 0.3),
    optimizers.ExponentialDecay(0.5, 10, 0.9),
    optimizers.CosineDecay(0.5, 20, alpha=0.1, warmup_steps=4),
    optimizers.OneCycle(0.5, 30),
    optimizers.PiecewiseConstant([3, 8], [0.5, 0.2, 0.1]),
]


def parameter(seed=0, size=3):
    made = nn.Parameter(np.random.default_rng(seed).standard_normal(size))
    made.grad[...] = np.random.default_rng(seed + 1).standard_normal(size)
    return made


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: type(one).__name__)
def test_a_schedule_is_assigning_its_values(schedule):
    one, other = parameter(), parameter()
    scheduled, assigned = nn.SGD([one], schedule, momentum=0.5), nn.SGD([other], 1.0, momentum=0.5)
    for step in range(35):
        assigned.lr = schedule(step)
        scheduled.step()
        assigned.step()
        assert scheduled.lr == assigned.lr
        assert one.value.tobytes() == other.value.tobytes()


def test_the_values_of_schedules():
    step, exponential, cosine, cycle, pieces = SCHEDULES
    assert [step(i) for i in (0, 6, 7, 14)] == pytest.approx([0.5, 0.5, 0.15, 0.045])
    assert [exponential(i) for i in (0, 10, 20)] == pytest.approx([0.5, 0.45, 0.405])
    assert [cosine(i) for i in (0, 3, 4, 14, 24, 99)] == pytest.approx([0.1, 0.4, 0.5, 0.275, 0.05, 0.05])
    assert [cycle(i) for i in (0, 8, 29, 99)] == pytest.approx([0.02, 0.5, 2e-6, 2e-6])
    assert [pieces(i) for i in (0, 3, 4, 8, 9)] == [0.5, 0.5, 0.2, 0.2, 0.1]


def test_schedules_are_those_of_torch():
    torch = pytest.importorskip("torch")
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    cases = [
        (optimizers.OneCycle(0.5, 30), lambda rule: one_cycle(rule, 0.5, 30)),
        (optimizers.OneCycle(0.5, 17, pct_start=0.4), lambda rule: one_cycle(rule, 0.5, 17, pct_start=0.4)),
        (optimizers.StepDecay(0.5, 7, 0.3), lambda rule: torch.optim.lr_scheduler.StepLR(rule, 7, 0.3)),
        (optimizers.CosineDecay(0.5, 16), lambda rule: torch.optim.lr_scheduler.CosineAnnealingLR(rule, 16)),
    ]  # fmt: skip
    for schedule, make in cases:
        rule = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5, momentum=0.9)
        theirs = make(rule)
        for step in range(17):
            assert schedule(step) == pytest.approx(rule.param_groups[0]["lr"], rel=1e-9, abs=1e-12), (schedule, step)
            rule.step()
            if step < 16:
                theirs.step()


RULES = {
    "SGD": lambda p, **k: nn.SGD(p, 0.1, **({"momentum": 0.9} | k)),
    "Adam": lambda p, **k: nn.Adam(p, 0.1, amsgrad=True, **k),
    "AdamW": lambda p, **k: nn.AdamW(p, 0.1, **k),
    "NAdam": lambda p, **k: nn.NAdam(p, 0.1, **k),
    "RAdam": lambda p, **k: nn.RAdam(p, 0.1, **k),
    "Lion": lambda p, **k: nn.Lion(p, 0.1, **k),
    "AdaGrad": lambda p, **k: nn.AdaGrad(p, 0.1, **k),
    "RMSprop": lambda p, **k: nn.RMSprop(p, 0.1, centered=True, **k),
    "Rprop": lambda p, **k: nn.Rprop(p, 0.1, **k),
}
CONSTANTS = [
    ("SGD", "momentum", 0.5), ("SGD", "dampening", 0.1), ("SGD", "weight_decay", 0.1), ("Adam", "betas", (0.5, 0.8)),
    ("Adam", "eps", 0.1), ("NAdam", "momentum_decay", 0.1), ("RMSprop", "alpha", 0.5), ("Lion", "betas", (0.5, 0.8)),
    ("AdamW", "weight_decay", 0.3), ("AdaGrad", "eps", 0.1), ("RMSprop", "momentum", 0.5),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "name", "value"), CONSTANTS)
def test_any_constant_may_be_a_schedule(rule, name, value):
    found = []
    for given in (value, lambda step: value):
        one = parameter()
        optimizer = RULES[rule]([one], **{name: given})
        for _ in range(3):
            optimizer.step()
        found.append(one.value.copy())
    np.testing.assert_array_equal(*found)


def test_a_schedule_that_does_not_fit_is_refused_before_the_step():
    one = parameter()
    before = one.value.copy()
    optimizer = nn.SGD([one], lambda step: math.nan if step else 0.1)
    optimizer.step()
    after = one.value.copy()
    assert (after != before).all()
    with pytest.raises(ValueError, match="lr: expected a finite number >= 0, got nan"):
        optimizer.step()
    np.testing.assert_array_equal(one.value, after)
    optimizer.lr = 0.2
    optimizer.step()
    assert optimizer.lr == 0.2
    assert not optimizer.schedules


@pytest.mark.parametrize("rule", RULES)
def test_a_state_that_is_loaded_goes_on_to_the_bit(rule):
    whole, stopped = parameter(), parameter()
    first, expected = RULES[rule]([stopped]), RULES[rule]([whole])
    for _ in range(4):
        expected.step()
    for _ in range(2):
        first.step()
    state, resumed = first.state_dict(), parameter()
    resumed.value = stopped.value
    first.step()  # what was returned is a copy
    second = RULES[rule]([resumed])
    second.load_state_dict(state)
    for _ in range(2):
        second.step()
    assert resumed.value.tobytes() == whole.value.tobytes()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: nn.Adam([parameter()], 0.1), "optimizer: expected the state"),
        (lambda: nn.SGD([parameter(size=4)], 0.1, momentum=0.9), r"optimizer\.velocities: expected arrays of shapes"),
    ],
)
def test_another_optimizers_state_is_refused(given, message):
    optimizer = nn.SGD([parameter()], 0.1, momentum=0.9)
    before = optimizer.state_dict()
    with pytest.raises((KeyError, ValueError), match=message):
        optimizer.load_state_dict(given().state_dict())
    assert optimizer.state_dict().keys() == before.keys()


def test_groups_are_optimizers_of_their_own():
    a, b, alone, beside = parameter(0), parameter(1, 5), parameter(0), parameter(1, 5)
    groups = nn.Groups(nn.Adam([a], lambda step: 0.1 / (1 + step)), nn.SGD([b], 0.3, momentum=0.9))
    single = nn.Adam([alone], lambda step: 0.1 / (1 + step)), nn.SGD([beside], 0.3, momentum=0.9)
    assert [id(p) for p in groups.parameters] == [id(a), id(b)]
    for _ in range(4):
        groups.step()
        for one in single:
            one.step()
    assert a.value.tobytes() == alone.value.tobytes()
    assert b.value.tobytes() == beside.value.tobytes()


def test_groups_that_do_not_fit_are_refused_before_anything_is_changed():
    a, b = parameter(0), parameter(1)
    with pytest.raises(ValueError, match="expected each Parameter once"):
        nn.Groups(nn.SGD([a], 0.1), nn.SGD([a], 0.1))
    with pytest.raises(TypeError, match="groups: expected optimizers"):
        nn.Groups([a])
    groups = nn.Groups(nn.SGD([a], 0.1), nn.SGD([b], 0.1))
    before = a.value.copy()
    groups.groups[1].lr = -1.0
    with pytest.raises(ValueError, match="lr: expected a finite number"):
        groups.step()
    np.testing.assert_array_equal(a.value, before)
    with pytest.raises(AttributeError, match=r"lr: expected it to be set of one group: optimizer\.groups\[0\]\.lr"):
        groups.lr = 0.5


def test_a_frozen_parameter_stays_where_it_is():
    a, b = parameter(0), parameter(1)
    a.trainable = False
    before = a.value.copy(), b.value.copy()
    nn.Adam([a, b], 0.1).step()
    np.testing.assert_array_equal(a.value, before[0])
    assert (b.value != before[1]).all()
