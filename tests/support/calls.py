"""Which layers of a net run by themselves."""


def record_calls(net, method):
    """The growing list of the names of layers whose own `method`, "forward" or "backward", runs from now on."""
    names = []

    def watch(layer, attribute):
        original = getattr(layer, attribute)

        def record(*args):
            names.append(layer.name)
            original(*args)

        setattr(layer, attribute, record)

    for layer in net.layers:
        # forward of a layer that can fuse calls forward_fused; backward and backward_fused are two ways in
        watch(layer, "forward_fused" if method == "forward" and layer.fuses else method)
        if method == "backward" and layer.type == "BatchNorm":
            watch(layer, "backward_fused")
    return names
