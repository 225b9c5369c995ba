"""Comparison of ONNX files with nets."""
import numpy as np


def assert_same(net, session, inputs, tolerance=1e-4):
    """Compare onnxruntime with the net."""
    net.forward(**inputs)
    tops = [name for name in net.outputs if name not in net.inputs]
    assert sorted(tops) == sorted(output.name for output in session.get_outputs())
    names = {entry.name for entry in session.get_inputs()}
    for name, result in zip(tops, session.run(tops, {k: v for k, v in inputs.items() if k in names})):
        expected = net.blobs[name].data
        assert result.shape == expected.shape, name
        scale = max(1, np.abs(expected).max(initial=0))
        np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance * scale, err_msg=name)
