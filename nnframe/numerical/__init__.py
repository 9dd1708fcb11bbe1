"""Any function: gradient, Jacobian and Hessian by finite differences."""

from nnframe.numerical.derivatives import numerical_gradient, numerical_hessian, numerical_jacobian
from nnframe.numerical.schemes import central_difference

__all__ = ["central_difference", "numerical_gradient", "numerical_hessian", "numerical_jacobian"]
