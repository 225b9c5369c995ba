"""Central differences against a net's backward, in float64."""
import numpy as np


def check(net, blobs, step=1e-5, tolerance=1e-6):
    """Hold the gradients of sum(weight * output) by every element of `blobs` (name to Blob) to central differences.

    The outputs are weighted with fixed random numbers, so that errors cannot cancel; a loss by its loss weight.
    Returns the number of elements checked.
    """
    rng = np.random.default_rng(7)
    net.forward()
    tops = {name: rng.normal(size=net.blobs[name].shape) if not net.loss_weights.get(name)
            else np.full(net.blobs[name].shape, net.loss_weights[name]) for name in net.outputs}
    states = net.state()

    def objective():
        net.restore(states)
        net.forward()
        return sum(float((tops[name] * net.blobs[name].data).sum()) for name in net.outputs)

    objective()
    for name, weight in tops.items():
        net.blobs[name].diff[...] = weight
    for layer in net.layers:
        for blob in layer.blobs:
            blob.diff[...] = 0
    net.backward()
    found = {name: np.array(blob.diff) for name, blob in blobs.items()}
    checked = 0
    for name, blob in blobs.items():
        for index in np.ndindex(*blob.shape):
            value = blob.data[index]
            blob.data[index] = value + step
            above = objective()
            blob.data[index] = value - step
            below = objective()
            blob.data[index] = value
            expected = (above - below) / (2 * step)
            scale = max(1.0, abs(expected), abs(found[name][index]))
            assert abs(found[name][index] - expected) <= tolerance * scale, (
                f"gradient of {name}{list(index)}: {found[name][index]:.10g} by backward, "
                f"{expected:.10g} by differences")
            checked += 1
    assert checked
    return checked
