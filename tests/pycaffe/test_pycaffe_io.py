"""spp.pycaffe: arrays in messages, images, the Transformer, Classifier and Detector."""
import sys
import types

import cv2
import numpy as np
import pytest
from skimage.transform import resize

import spp.pycaffe as caffe
from spp.proto import caffe_pb2
from spp.pycaffe import io


def image(height=9, width=7, channels=3, seed=0):
    return np.random.default_rng(seed).random((height, width, channels)).astype(np.float32)


# --- messages

def test_old_blobproto():
    blob = caffe_pb2.BlobProto(num=1, channels=1, height=10, width=10, data=range(100))
    array = io.blobproto_to_array(blob)
    assert array.shape == (1, 1, 10, 10) and array[0, 0, 3, 4] == 34


def test_new_blobproto():
    blob = caffe_pb2.BlobProto(data=range(100), diff=range(100, 200))
    blob.shape.dim.extend((5, 20))
    assert io.blobproto_to_array(blob)[1, 2] == 22 and io.blobproto_to_array(blob, True)[1, 2] == 122


def test_blobproto_without_shape():
    with pytest.raises(ValueError, match="100 values to its shape .none is given"):
        io.blobproto_to_array(caffe_pb2.BlobProto(data=range(100)))
    assert io.blobproto_to_array(caffe_pb2.BlobProto(data=[123])) == 123


def test_blobproto_of_doubles():
    blob = caffe_pb2.BlobProto(double_data=[0.1, 0.2])
    blob.shape.dim.append(2)
    assert io.blobproto_to_array(blob).tolist() == [0.1, 0.2]


def test_arrays_to_blobprotos_and_back():
    x = np.arange(6.0).reshape(1, 2, 3)
    blob = io.array_to_blobproto(x, -x)
    assert list(blob.shape.dim) == [1, 2, 3] and list(blob.data) == list(range(6))
    np.testing.assert_array_equal(io.blobproto_to_array(blob, return_diff=True), -x)
    data = io.arraylist_to_blobprotovector_str([x, x[0, 0]])
    first, second = io.blobprotovector_str_to_arraylist(data)
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(second, x[0, 0])
    with pytest.raises(ValueError, match="3 bytes are no BlobProtoVector"):
        io.blobprotovector_str_to_arraylist(b"\xff\xff\xff")


def test_datum():
    x = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    without, with_label = io.array_to_datum(x), io.array_to_datum(x, 1)
    assert not without.HasField("label") and with_label.label == 1
    assert len(without.SerializeToString()) < len(with_label.SerializeToString())
    assert io.datum_to_array(with_label).dtype == np.uint8
    np.testing.assert_array_equal(io.datum_to_array(with_label), x)
    floats = io.array_to_datum(x / 7, 0)
    assert not floats.data and floats.HasField("label")
    np.testing.assert_allclose(io.datum_to_array(floats), x / 7, 1e-6)
    back = io.datum_to_array(without)
    back[0, 0, 0] = 9       # a copy, that may be written
    for wrong in (x[0], x[None]):
        with pytest.raises(ValueError, match="Incorrect array shape"):
            io.array_to_datum(wrong)


def test_encoded_and_damaged_datum():
    picture = np.full((5, 6, 3), (10, 20, 30), np.uint8)
    datum = caffe_pb2.Datum(encoded=True, data=cv2.imencode(".png", picture)[1].tobytes())
    np.testing.assert_array_equal(io.datum_to_array(datum), picture.transpose(2, 0, 1))
    with pytest.raises(ValueError, match="the Datum holds 2 values, which is not 1 x 2 x 3"):
        io.datum_to_array(caffe_pb2.Datum(channels=1, height=2, width=3, data=b"ab"))
    with pytest.raises(RuntimeError, match="cannot be decoded"):
        io.datum_to_array(caffe_pb2.Datum(encoded=True, data=b"ab"))


# --- images

def test_load_image(tmp_path):
    bgr = np.random.default_rng(1).integers(0, 256, (4, 5, 3), np.uint8)
    path, gray_path = str(tmp_path / "a.png"), str(tmp_path / "gray.png")
    cv2.imwrite(path, bgr)
    cv2.imwrite(gray_path, bgr[:, :, 0])
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([bgr, bgr[:, :, :1]]))
    rgb = bgr[:, :, ::-1] / 255
    loaded = io.load_image(path)
    assert loaded.dtype == np.float32 and loaded.flags.c_contiguous
    np.testing.assert_allclose(loaded, rgb, 1e-6)
    np.testing.assert_allclose(io.load_image(str(tmp_path / "alpha.png")), rgb, 1e-6)
    gray = io.load_image(path, color=False)
    assert gray.shape == (4, 5, 1)
    np.testing.assert_allclose(gray[:, :, 0], rgb @ [0.2125, 0.7154, 0.0721], 1e-5)
    np.testing.assert_allclose(io.load_image(gray_path, False)[:, :, 0], bgr[:, :, 0] / 255, 1e-6)
    np.testing.assert_allclose(io.load_image(gray_path), np.repeat(bgr[:, :, :1], 3, 2) / 255, 1e-6)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(RuntimeError, match="text.png: cannot be decoded"):
        io.load_image(str(tmp_path / "text.png"))
    with pytest.raises(RuntimeError, match="Could not open file .*missing.png"):
        io.load_image(str(tmp_path / "missing.png"))


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(20, 31), (5, 4), (12, 3), (9, 7)])
def test_resize_as_scikit_image_without_antialiasing(size, channels, order):
    x = image(9, 7, channels) * 7 - 2
    unit = (x - x.min()) / (x.max() - x.min())
    expected = resize(unit, size, order=order, mode="constant", anti_aliasing=False) * (x.max() - x.min()) + x.min()
    resized = io.resize_image(x, size, order)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected, 1e-5, 1e-5)


def test_resize_other_images():
    x = np.add.outer(np.arange(5.0), 10 * np.arange(4.0))[:, :, None] * [1, 2, 3, 4]
    resized = io.resize_image(x, (9, 7))
    np.testing.assert_allclose(resized[::2, ::2], x, 1e-5)       # corners on corners: every second pixel is an old one
    np.testing.assert_allclose(resized[1, 3], (x[0, 1] + x[1, 1] + x[0, 2] + x[1, 2]) / 4, 1e-5)
    constant = io.resize_image(np.full((3, 3, 3), 0.5), (4, 6))
    assert constant.shape == (4, 6, 3) and (constant == 0.5).all() and constant.dtype == np.float32


def test_oversample():
    images = [image(9, 8, 2, seed) for seed in (0, 1)]
    crops = io.oversample(images, np.array([4, 5]))
    assert crops.shape == (20, 4, 5, 2) and crops.dtype == np.float32
    for i, x in enumerate(images):
        five = [x[:4, :5], x[:4, 3:], x[5:, :5], x[5:, 3:], x[2:6, 1:6]]
        np.testing.assert_array_equal(crops[10 * i:10 * i + 5], five)
        np.testing.assert_array_equal(crops[10 * i + 5:10 * i + 10], np.array(five)[:, :, ::-1])


# --- Transformer

def test_order_of_the_transformations():
    transformer = io.Transformer({"data": (2, 3, 5, 4)})
    x = image(5, 4)
    before = x.copy()
    np.testing.assert_array_equal(transformer.preprocess("data", x), x)
    transformer.set_input_scale("data", 0.5)
    transformer.set_mean("data", np.array([1.0, 2, 3]))
    transformer.set_raw_scale("data", 255)
    transformer.set_channel_swap("data", (2, 0, 1))
    transformer.set_transpose("data", (2, 0, 1))
    result = transformer.preprocess("data", x)
    planes = x.transpose(2, 0, 1)[[2, 0, 1]]
    np.testing.assert_allclose(result, (planes * 255 - np.array([1, 2, 3])[:, None, None]) * 0.5, 1e-5, 1e-5)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(x, before)
    np.testing.assert_allclose(transformer.deprocess("data", result[None]), x, 1e-5, 1e-5)


def test_preprocess_resizes():
    transformer = io.Transformer({"data": (1, 3, 5, 4)})
    x = image(10, 8)
    np.testing.assert_array_equal(transformer.preprocess("data", x), io.resize_image(x, (5, 4)))
    assert transformer.preprocess("data", (x * 255).astype(np.uint8)).max() > 1


def test_mean_images():
    transformer = io.Transformer({"data": (1, 3, 5, 4)})
    transformer.set_transpose("data", (2, 0, 1))
    mean = image(10, 8, 3, 5).transpose(2, 0, 1)
    transformer.set_mean("data", mean)
    resized = io.resize_image(mean.transpose(1, 2, 0), (5, 4))
    np.testing.assert_array_equal(transformer.mean["data"], resized.transpose(2, 0, 1))
    transformer.set_mean("data", mean[:, :5, :4])
    np.testing.assert_array_equal(transformer.mean["data"], mean[:, :5, :4])
    transformer.set_mean("data", mean[0, :5, :4])
    x = image(5, 4)
    np.testing.assert_allclose(transformer.preprocess("data", x), x.transpose(2, 0, 1) - mean[0, :5, :4], 1e-6, 1e-6)


@pytest.mark.parametrize("call, kind, message", [
    (lambda t: t.preprocess("label", image()), RuntimeError, "label is not one of the net inputs: data"),
    (lambda t: t.set_raw_scale("label", 1), RuntimeError, "label is not one of the net inputs: data"),
    (lambda t: t.set_transpose("data", (1, 0)), RuntimeError, "Transpose order needs to have the same number of "
     "dimensions as the input"),
    (lambda t: t.set_channel_swap("data", (1, 0)), RuntimeError, "Channel swap needs to have the same number of "
     "dimensions as the input channels"),
    (lambda t: t.set_mean("data", np.ones(4)), ValueError, "Mean channels incompatible with input: 4 values"),
    (lambda t: t.set_mean("data", np.ones((4, 5, 4))), ValueError, "Mean channels incompatible with input: 4"),
    (lambda t: t.set_mean("data", np.ones((1, 3, 5, 4))), ValueError, "Mean shape invalid")])
def test_what_does_not_fit_the_input(call, kind, message):
    with pytest.raises(kind, match=message):
        call(io.Transformer({"data": (1, 3, 5, 4)}))


# --- Classifier and Detector

NET = """
layer { name: 'in' type: 'Input' top: 'data' input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } } }
layer { name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'ip' inner_product_param { num_output: 5
  weight_filler { type: 'gaussian' std: 0.1 } } }
layer { name: 'prob' type: 'Softmax' bottom: 'ip' top: 'prob' }
"""


@pytest.fixture
def model(tmp_path):
    path, weights = str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel")
    (tmp_path / "net.prototxt").write_text(NET)
    net = caffe.Net(path, caffe.TEST)
    net.save(weights)
    weight = net.params["ip"][0].data

    def scores(planes):
        e = np.exp(planes.reshape(len(planes), -1) @ weight.T)
        return e / e.sum(1, keepdims=True)

    return path, weights, scores


def test_classifier(model):
    path, weights, scores = model
    mean = np.array([10.0, 20, 30])
    classifier = caffe.Classifier(path, weights, image_dims=(9, 8), mean=mean, raw_scale=255, channel_swap=(2, 1, 0),
                                  input_scale=0.01)
    images = [image(12, 10, 3, 1), image(9, 8, 3, 2), image(20, 9, 3, 3)]
    resized = [io.resize_image(x, (9, 8)) for x in images]
    prediction = classifier.predict(images)
    assert prediction.shape == (3, 5)

    def planes(crops):
        return (np.array(crops).transpose(0, 3, 1, 2)[:, ::-1] * 255 - mean[:, None, None]) * 0.01

    for i, x in enumerate(resized):
        np.testing.assert_allclose(prediction[i], scores(planes(io.oversample([x], (6, 6)))).mean(0), 1e-4, 1e-6)
    centre = classifier.predict(images, oversample=False)
    np.testing.assert_allclose(centre, scores(planes([x[1:7, 1:7] for x in resized])), 1e-4, 1e-6)
    plain = caffe.Classifier(path, weights)
    assert plain.image_dims.tolist() == [6, 6]
    np.testing.assert_allclose(plain.predict(images[:1], False)[0],
                               scores(io.resize_image(images[0], (6, 6)).transpose(2, 0, 1)[None])[0], 1e-4, 1e-6)


@pytest.fixture
def photo(tmp_path):
    path = str(tmp_path / "photo.png")
    cv2.imwrite(path, np.random.default_rng(3).integers(0, 256, (30, 40, 3), np.uint8))
    return path


def test_detector(model, photo):
    path, weights, scores = model
    detector = caffe.Detector(path, weights, mean=np.array([0.1, 0.2, 0.3]))
    windows = [(2, 3, 20, 30), (0, 0, 30, 40), (5, 5, 11, 11), (1, 2, 9, 8), (7, 7, 29, 20)]
    detections = detector.detect_windows([(photo, windows[:2]), (photo, np.array(windows[2:]))])
    assert [list(one["window"]) for one in detections] == [list(w) for w in windows]
    assert {one["filename"] for one in detections} == {photo}
    x = io.load_image(photo)
    for one, (ymin, xmin, ymax, xmax) in zip(detections, windows):
        crop = io.resize_image(x[ymin:ymax, xmin:xmax], (6, 6)).transpose(2, 0, 1)
        expected = scores((crop - np.array([0.1, 0.2, 0.3])[:, None, None])[None])[0]
        np.testing.assert_allclose(one["prediction"], expected, 1e-4, 1e-6)
    assert detector.detect_windows([]) == []


def test_context_around_windows(model):
    path, weights, _ = model
    mean = np.arange(3 * 6 * 6, dtype=float).reshape(3, 6, 6)
    detector = caffe.Detector(path, weights, mean=mean, raw_scale=2, channel_swap=(2, 1, 0), context_pad=1)
    np.testing.assert_array_equal(detector.crop_mean, mean[::-1].transpose(1, 2, 0) / 2)
    x = image(40, 50)
    # of 6 pixels 2 are context: a window of 12 x 8 pixels (both ends included) grows to 18 x 12
    inside = detector.crop(x, np.array([10, 20, 21, 27]))
    np.testing.assert_array_equal(inside, io.resize_image(x[7:25, 18:30], (6, 6)))
    # at the corner, 3 rows and 2 columns of the grown window are outside
    corner = detector.crop(x, np.array([0, 0, 11, 7]))
    np.testing.assert_array_equal(corner[:1], detector.crop_mean[:1])
    np.testing.assert_array_equal(corner[:, :1], detector.crop_mean[:, :1])
    assert (corner[1:, 1:] <= 1).all()
    detector.configure_crop(None)
    np.testing.assert_array_equal(detector.crop(x, np.array([0, 1, 11, 7])), x[0:11, 1:7])


def test_detector_errors(model):
    path, weights, _ = model
    with pytest.raises(RuntimeError, match="context_pad needs a square input"):
        caffe.Detector(path, weights, context_pad=3)
    detector = caffe.Detector(path, weights, context_pad=2)
    with pytest.raises(RuntimeError, match="a window from 90 to 95 is outside its image, which ends at 9"):
        detector.crop(image(), np.array([90, 0, 95, 4]))
    with pytest.raises(RuntimeError, match="needs the module selective_search_ijcv_with_python"):
        detector.detect_selective_search(["a.png"])


def test_selective_search_by_its_module(model, photo, monkeypatch):
    path, weights, _ = model
    module = types.ModuleType("selective_search_ijcv_with_python")
    calls = []

    def get_windows(names, cmd):
        calls.append((names, cmd))
        return [np.array([[0, 0, 9, 9]])]

    setattr(module, "get_windows", get_windows)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    detections = caffe.Detector(path, weights).detect_selective_search([photo])
    assert calls == [([photo], "selective_search_rcnn")] and detections[0]["prediction"].shape == (5,)
