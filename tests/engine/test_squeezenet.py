"""SqueezeNet v1.1 with its public weights: the reference's probabilities, and at other sizes OpenCV's."""
import cv2
import numpy as np
import pytest

import golden
from spp.net import Net
from squeezenet import DEPLOY, WEIGHTS, needs_weights

MEAN = np.array([104, 117, 123], np.float32)

pytestmark = needs_weights


@pytest.fixture(scope="module")
def net():
    return Net(DEPLOY, weights=str(WEIGHTS))


@pytest.fixture(scope="module")
def expected():
    return np.load(golden.path("squeezenet", "outputs.npz"))


def as_input(*images):
    """uint8 BGR H x W x C images as the float32 N x C x H x W that the net was trained on."""
    return np.stack([image.astype(np.float32) - MEAN for image in images]).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("index", range(4))
def test_a_photo_as_the_reference_sees_it(net, expected, index):
    prob = net.forward(data=as_input(expected[f"image/{index}"]))["prob"].ravel()
    np.testing.assert_allclose(prob, expected[f"prob/{index}"], atol=1e-4)
    np.testing.assert_array_equal(np.argsort(-prob)[:5], np.argsort(-expected[f"prob/{index}"])[:5])
    fire9 = net.blobs["fire9/concat"].data[0].mean((1, 2))
    golden.assert_close(fire9, expected[f"fire9/{index}"], "fire9/concat")


def test_a_batch_is_its_photos_one_by_one(net, expected):
    prob = net.forward(data=as_input(*(expected[f"image/{i}"] for i in range(4))))["prob"]
    np.testing.assert_allclose(prob.reshape(4, -1), [expected[f"prob/{i}"] for i in range(4)], atol=1e-4)


@pytest.mark.parametrize("height, width", [(227, 300), (300, 227), (161, 350), (97, 64)])
def test_other_sizes_as_opencv_sees_them(net, expected, height, width):
    x = as_input(cv2.resize(expected["image/1"], (width, height)))
    peer = cv2.dnn.readNetFromCaffe(DEPLOY, str(WEIGHTS))
    peer.setInput(x)
    fire9, prob = peer.forward(["fire9/concat", "prob"])
    result = net.forward(data=x)["prob"]
    assert net.blobs["fire9/concat"].shape == fire9.shape
    np.testing.assert_allclose(net.blobs["fire9/concat"].data, fire9, atol=1e-4 * fire9.max())
    np.testing.assert_allclose(result, prob, atol=1e-4)
    np.testing.assert_array_equal(np.argsort(-result.ravel())[:5], np.argsort(-prob.ravel())[:5])
