def norm_rotate_backward(*given: object, **how: object) -> str:
    return "there is no kernel for the gradient"
