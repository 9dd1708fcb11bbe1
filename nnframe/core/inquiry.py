"""The questions that nnframe puts to a layer: whether it is a pure function, what it couples, whether float64 helps."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnframe.core.protocol import LayerError, named, traits

if TYPE_CHECKING:
    from nnframe.core.chain import Link
    from nnframe.core.layer import Layer
    from nnframe.core.run import Run

HALVES = 3  # random ones, of the rows and of the entries, that are moved while the others must stay
RESOLVED = 1e-3  # largest step below which a layer's own rounding is looked for


class Inquiry:
    """One layer, its input and its output, and the questions."""

    def __init__(self, link: Link, run: Run, looks: int = 0) -> None:
        self.link, self.run, self.layer = link, run, link.layer
        self.name = named(self.layer, run.root)
        self.x, self.y = link.x, link.y
        self.integers = self.x.dtype.kind in "iu"
        self.rng = np.random.Generator(np.random.PCG64((20260101, looks)))
        self._other: npt.NDArray[Any] | None = None
        self._double: tuple[Any, Any, Any] | None = None
        self._refusal: Exception | None = None  # of float64

    # ---- a pure function? ----

    def pure(self) -> None:
        """Raise LayerError where forward changes the layer or its input, remembers, or does not repeat itself."""
        made = [p for p in self.layer.parameters() if p.trainable and all(p is not q for q in self.link.parameters)]
        if made:
            self._refuse("forward makes a Parameter, which nobody trains", "make it in __init__")
        before, private = self.x.copy(), self._private()
        contents = _contents(vars(private))
        values = [parameter.value.copy() for parameter in private.parameters()]
        kept_buffers = {name: buffer.value.copy() for name, buffer in private.named_buffers()}
        first = self._forward(private, self.x)
        if not np.array_equal(before, self.x, equal_nan=self.x.dtype.kind == "f"):
            self._refuse("forward writes into its input", "compute into a new array, or into a copy of x")
        kept = first.copy()
        moved = self._tried(private, self.other())
        if not _same(first, kept, 0.0):
            self._refuse(
                "forward returns an array that it writes to again when it is called the next time",
                "return a new array, or a copy",
            )
        again = self._forward(private, self.x)
        if not _same(kept, again, _rounding(kept)) or not _same(self.y, kept, _rounding(self.y)):
            self._refuse_repeating()
        changed = _first_change(contents, _contents(vars(private)))
        if changed:
            self._refuse(
                f"forward changes what is in self.{changed}",
                "keep it in local variables; what backward needs is returned by forward_saving, statistics are an "
                "nn.Buffer that observe changes",
            )
        for parameter, value in zip(private.parameters(), values, strict=True):
            if not np.array_equal(parameter.value, value, equal_nan=True):
                self._refuse("forward changes a parameter's value", "compute into a new array")
        for name, buffer in private.named_buffers():
            if name in kept_buffers and not np.array_equal(buffer.value, kept_buffers[name], equal_nan=True):
                self._refuse(f"forward changes the buffer {name}", "change it in observe(x, y), once a step")
        if moved is not None:
            self._remembers(private, moved)

    def repeats(self) -> None:
        """Raise LayerError where the output in this run is not what the layer gives for the same input now."""
        if not _same(self.y, self._forward(self._private(), self.x), _rounding(self.y)):
            self._refuse_repeating()

    def _refuse_repeating(self) -> None:
        self._refuse(
            "forward does not repeat itself: the same input gave two different outputs",
            "draw random numbers from an nn.Random held in self, count steps in an nn.Buffer that observe changes",
        )

    def _remembers(self, private: Layer, moved: npt.NDArray[Any]) -> None:
        """Compare a copy that has been called before with one that has not."""
        reason = "forward remembers an earlier call: with other {} it gave an answer of before"
        cure = "compute each answer from x, the parameters and the buffers alone"
        if not _same(moved, self._forward(self._private(), self.other()), _rounding(moved)):
            self._refuse(reason.format("input"), cure)
        if not private.parameters():
            return
        fresh = self._private()
        other = self.other()  # not x, whose answer the layer itself may have kept
        self._forward(private, other)
        for one in (private, fresh):
            for parameter in one.parameters():
                parameter.value *= 1.25
                parameter.value += 0.125
        used, new = self._tried(private, other), self._tried(fresh, other)
        if used is not None and new is not None and not _same(used, new, _rounding(new)):
            self._refuse(reason.format("parameters"), cure)

    # ---- float64 ----

    def coarse(self) -> str:
        """Why float64 values of the layer are no good for differences; "" where they are."""
        t = traits(self.layer)
        if self.integers:
            return ""
        double, base, _ = self.double()
        if self._refusal is not None:
            error = self._refusal
            return (
                f"forward cannot compute in float64, in which differences are taken ({type(error).__name__}: {error})"
            )
        if base.shape != self.y.shape:
            return f"forward returns shape {base.shape} in float64 and {self.y.shape} in {self.y.dtype}"
        try:
            single = self._forward(self.layer.astype(np.float32), self.x.astype(np.float32))
        except Exception:
            single = None
        if single is not None and _differ(base, single):
            return (
                "forward gives another answer in float64 than in float32: it takes one dtype alone; convert x to that "
                "dtype inside forward (both come, as differences are taken in float64)"
            )
        if t.difference and t.perturb:
            return ""
        return self._own_rounding(double, base)

    def _own_rounding(self, double: Layer, base: npt.NDArray[Any]) -> str:
        """See whether values are rounded inside, to float32 or less, so that differences are mostly rounding."""
        step = 1e-5 if self.run.step is None else self.run.step
        if step > RESOLVED or self.y.dtype.kind != "f":
            return ""
        x = self.x.astype(np.float64)
        with np.errstate(all="ignore"):
            beside = self._forward(double, x * (1 + 1e-13))
            if _share(np.abs(beside - base) > 1e-10 * _size(base)) > 0.5:
                return "forward gives another answer for x itself than beside it: it remembers one that was rounded"
            way = self.rng.choice([-step, step], x.shape) * np.maximum(size_of(x), np.abs(x))
            near, far = (
                self._forward(double, x + k * way) - self._forward(double, x - k * way).astype(np.float64)
                for k in (1, 2)
            )
        off, most = np.abs(far - 2 * near), _size(far)
        cure = "compute in the dtype of x, or give the strategy a larger step"
        uneven = _share(near != 0) > 0.9 and _share(off > max(1e-6, 100 * step**2) * most) > 0.5
        if most > 0 and uneven:
            return (
                f"forward rounds inside{', to float32 or less' if step > 1e-9 else ''}, so that differences at step "
                f"{step:g} are mostly rounding; "
                f"{cure}"
            )
        some = base != 0
        with np.errstate(all="ignore"):
            farther = self._forward(
                double, x * (1 + 2e-3)
            )  # moves what was rounded to float16, but no table or quantiser
        if _share(near[some] == 0) > 0.5 and _share(farther[some] != base[some]) > 0.9:
            return f"forward rounds its output, below float32: most differences at step {step:g} are 0; {cure}"
        return ""

    # ---- who depends on whom ----

    def couples(self, allowed: float = 0.0) -> str:
        """Find out which rows and entries the layer couples.

        allowed : how far an output may move by rounding, of the largest one; besides its own
        """
        if len(self.x) == 0:
            return "batch"
        try:
            if not self._parts_agree():
                return "batch"
            halves = [self.half_of_rows() for _ in range(HALVES)]
            if not all(self.keeps(mask, "other", allowed) and self.keeps(~mask, "other", allowed) for mask in halves):
                return "batch"
            if not self._keeps_far(halves[0], allowed):
                return "batch"
        except Exception:
            return "batch"
        if self.integers or self.y.shape != self.x.shape:
            return "rows"
        # other values open gates that are shut, near ones leave open those that are open
        alone = all(
            self.keeps(self.half_of_entries(), how, allowed) for _ in range(HALVES) for how in ("other", "near")
        )
        return "entries" if alone else "rows"

    def half_of_rows(self) -> npt.NDArray[np.bool_]:
        """Half of the rows of x, drawn at random, as a mask of x's shape."""
        mask = np.zeros(self.x.shape, bool)
        mask[self.rng.permutation(len(mask))[: max(1, len(mask) // 2)]] = True
        return mask

    def half_of_entries(self) -> npt.NDArray[np.bool_]:
        """Half of the entries of x, drawn at random."""
        return np.asarray(self.rng.random(self.x.shape) < 0.5)

    def keeps(self, mask: npt.NDArray[np.bool_], how: str = "other", allowed: float = 0.0) -> bool:
        """Whether the outputs of rows or entries stay the same when all others, those in the mask, are moved.

        how : "other" input, "near" by or "far" away
        allowed : what they may move by all the same, of the largest one
        """
        evaluate, base, x = self.double()
        if how == "far":
            other = x + max(float(np.sqrt(np.mean(np.square(x)))), 1.0) * self.rng.standard_normal(x.shape)
        else:
            other = self._other_double()
        moved = np.where(mask, x + 1e-3 * (other - x) if how == "near" else other, x)
        with np.errstate(all="ignore"):
            y = self._forward(evaluate, moved)
        if y.shape != base.shape:
            return False
        still = ~mask if mask.shape == base.shape else ~mask.reshape(len(mask), -1).any(axis=1)
        # each by itself: what moves may be small beside others
        return _same(base[still], y[still], np.maximum(1e-12 * np.abs(base[still]), allowed * _size(base)))

    def _keeps_far(self, mask: npt.NDArray[np.bool_], allowed: float) -> bool:
        """See the same with rows moved as far as numbers are large, or by 1; a layer may not take those."""
        if self.integers:
            return True
        try:
            return self.keeps(mask, "far", allowed) and self.keeps(~mask, "far", allowed)
        except LayerError:
            raise
        except Exception:
            return True

    def _parts_agree(self) -> bool:
        """Whether a part of the rows, and all of them among others, give the same outputs."""
        evaluate, base, x = self.double()
        every, other = np.arange(len(x)), self._other_double()
        half = every[::-1][: (len(x) + 1) // 2]  # others than the first, in another order
        bound = max(1e-9, 10 * _rounding(self.y, False)) * _size(base)
        numbers = self._row_numbers()
        for rows, part, which in (
            (half, x[half], slice(None)),
            (np.tile(every, 3), np.concatenate([other, x, other]), slice(len(x), 2 * len(x))),
        ):
            y = self._forward(evaluate, part, numbers[rows])
            if y.shape != (len(part), *base.shape[1:]) or not _same(base[rows[which]], y[which], bound):
                return False
        return True

    # ---- means ----

    def double(self) -> tuple[Any, npt.NDArray[Any], npt.NDArray[Any]]:
        """Return a private copy in float64, its output for x, and x; in its own dtype where it takes no other."""
        if self._double is None:
            copy, x = self.layer.astype(np.float64), self.x if self.integers else self.x.astype(np.float64)
            try:
                self._double = copy, self._forward(copy, x), x
            except Exception as error:
                if self.x.dtype == np.float64:
                    raise
                self._refusal = error
                copy = self._private()
                self._double = copy, self._forward(copy, self.x), self.x
        return self._double

    def other(self) -> npt.NDArray[Any]:
        """Return another input: rows in another order, numbers a little larger; every entry differs where it may."""
        if self._other is None:
            other = np.roll(self.x, 1, axis=0)
            if not self.integers:
                wide = other.astype(np.float64) * (1 + 0.01 * self.rng.random(self.x.shape))
                size = max(_size(self.x), 1e-3)
                wide = np.where(wide == self.x, wide + 1e-3 * size * (0.5 + self.rng.random(self.x.shape)), wide)
                other = wide.astype(self.x.dtype)
            self._other = other
        return self._other

    def _other_double(self) -> npt.NDArray[Any]:
        other = self.other()
        return other if self.integers else other.astype(self.double()[2].dtype)

    def _private(self) -> Layer:
        made: Layer = self.layer.astype(self.layer.dtype if self.integers else self.x.dtype)
        return made

    def _row_numbers(self) -> npt.NDArray[np.intp]:
        return np.arange(len(self.x)) if self.run.rows is None else self.run.rows

    def _forward(self, layer: Layer, x: Any, rows: npt.NDArray[np.intp] | None = None) -> npt.NDArray[Any]:
        try:
            y = np.asarray(self.run.evaluate(layer, x, rows))  # a derived class of arrays as well
        except ValueError as error:
            if "read-only" in str(error):
                self._refuse("forward writes into its input", "compute into a new array, or into a copy of x", error)
            raise
        return y if y.dtype.kind == "f" else y.astype(np.float64)

    def _tried(self, layer: Layer, x: Any) -> npt.NDArray[Any] | None:
        """Return what forward gives for values that it may not take; None where it raises."""
        try:
            with np.errstate(all="ignore"):
                return self._forward(layer, x)
        except LayerError:
            raise
        except Exception:
            return None

    def _refuse(self, reason: str, cure: str, cause: Exception | None = None) -> None:
        raise LayerError(
            f"{self.name}: {reason}. A layer is a pure function of x, its parameters and buffers: {cure}"
        ) from (cause)


def _share(where: npt.NDArray[np.bool_]) -> float:
    """How much of a mask is set."""
    return float(np.mean(where)) if where.size else 0.0


def size_of(x: npt.NDArray[Any]) -> float:
    """How large the numbers of an input are, in [1e-3, 1]: over such lengths a layer is taken to be smooth."""
    if not x.size:
        return 1.0
    return float(np.clip(np.sqrt(np.mean(np.square(x, dtype=np.float64))), 1e-3, 1.0))


def _size(a: npt.NDArray[Any]) -> float:
    finite = np.abs(a[np.isfinite(a)]) if a.dtype.kind == "f" else np.abs(a)
    return float(finite.max(initial=0))


def _rounding(a: npt.NDArray[Any], scaled: bool = True) -> float:
    """How much two evaluations may differ by the order of their sums alone."""
    eps = 64 * float(np.finfo(a.dtype).eps) if a.dtype.kind == "f" else 0.0
    return eps * _size(a) if scaled else eps


def _same(a: npt.NDArray[Any], b: npt.NDArray[Any], bound: float | npt.NDArray[Any]) -> bool:
    """Whether two arrays are equal to within a bound, NaN and infinity included."""
    if a.shape != b.shape:
        return False
    if np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
        return True
    with np.errstate(invalid="ignore"):
        return bool(((a == b) | (np.abs(a - b) <= bound) | (np.isnan(a) & np.isnan(b))).all())


def _differ(double: npt.NDArray[Any], single: npt.NDArray[Any]) -> bool:
    """Whether values in float64 and float32 are two different things, not one with other rounding or a step crossed."""
    if single.shape != double.shape:
        return True
    with np.errstate(invalid="ignore"):
        off = ~((np.abs(double - single) <= 1e-2 * _size(double)) | (double == single))
    return bool(np.mean(off & ~(np.isnan(double) & np.isnan(single))) > 0.1)


def _contents(value: Any, depth: int = 0) -> Any:
    """Return a trace of what an object holds, by which a change is seen; objects of other kinds count as one thing."""
    if isinstance(value, np.ndarray):
        return (value.shape, zlib.crc32(np.ascontiguousarray(value).tobytes())) if value.dtype != object else 0
    if isinstance(value, int | float | np.number):
        return ("number", float(value)) if value == value else 0
    if depth < 3 and isinstance(value, dict):
        return {str(key): _contents(item, depth + 1) for key, item in value.items()}
    if depth < 3 and isinstance(value, list | tuple | set):
        return (
            [len(value), *(_contents(item, depth + 1) for item in value)] if not isinstance(value, set) else len(value)
        )
    return 0


def _first_change(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Name of an attribute whose contents have changed; "" for none. One that is assigned anew may be what it likes."""
    for name, contents in before.items():
        if name in after and type(contents) is type(after[name]) and contents != after[name]:
            return name
    return ""
