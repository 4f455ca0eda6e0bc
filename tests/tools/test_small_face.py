"""The small world's face models: they learn, and what is written is what was trained."""

import json
from dataclasses import fields, replace

import numpy as np
import onnxruntime
import pytest
import torch

from memo_modules.audio.vocals import VocalSeparator
from memo_modules.portrait.face import DETECTOR_FILE, RECOGNISER_FILE, Detection, FaceAnalyzer
from memo_modules.types import Audio
from tools.small_model import face
from tools.small_model.face_data import SIDE, TRAINING, Scenes, draw_empty, draw_portraits, find_face, mirror
from tools.small_model.face_nets import ANCHORS, CROP, SHRINK, Detector, Recogniser, Truth, detection_loss
from tools.small_model.face_onnx import write_detector, write_recogniser
from tools.small_model.face_report import Readout, explained
from tools.small_model.face_training import aligned, as_input, train_detector, train_recogniser
from tools.small_model.vocals import write_vocal_separator
from tools.small_world import character, make_clip

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def portraits():
    return draw_portraits(range(TRAINING, TRAINING + 6), 2, 96)


@pytest.fixture(scope="module")
def scenes(portraits):
    return Scenes(portraits, draw_empty(range(4), 64), seed=0)


@pytest.fixture(scope="module")
def nets():
    """Both, with statistics of batch norm that are not those of a new one."""
    torch.manual_seed(0)
    detector, recogniser = Detector(), Recogniser(62)
    for net, size in ((detector, SIDE), (recogniser, CROP)):
        for _ in range(3):
            net(torch.randn(4, 3, size, size) * 0.7 + 0.2)
        net.eval()
    for head in detector.heads:
        torch.nn.init.normal_(head.weight, std=0.3)
    return detector, recogniser


def magenta(picture):
    red, green, blue = np.moveaxis(picture.astype(float), -1, 0)
    return np.minimum(red, blue) - green > 25


def test_faces_are_where_they_are_said_to_be():
    clip = make_clip(5, 4.0, mood="happy")
    rows = [row for row in range(0, len(clip), 6) if clip.tracks.opening[row] > 0.2 and clip.tracks.eyes[row] > 0.5]
    boxes, landmarks = find_face(clip.who, clip.tracks, 256)
    assert len(rows) > 8 and (clip.tracks.pose[rows].std(axis=0) > 0.01)[[0, 1, 2, 4, 5]].all()  # it moves, and turns
    for row in rows:
        picture = clip.frames(256, row, row + 1)[0]
        assert (landmarks[row] > boxes[row, :2]).all() and (landmarks[row] < boxes[row, 2:]).all()
        y, x = np.nonzero(magenta(picture))  # the inside of the mouth
        assert (x.min() + x.max() + 1) / 2 == pytest.approx(landmarks[row, 3:, 0].mean(), abs=2.5)
        assert x.max() - x.min() == pytest.approx(landmarks[row, 4, 0] - landmarks[row, 3, 0], abs=7)
        assert y.min() - 8 < landmarks[row, 3:, 1].mean() < y.max()
        for at in landmarks[row, :2]:  # pupils are dark, the whites next to them bright
            eye = picture[int(at[1]) - 12 : int(at[1]) + 12, int(at[0]) - 18 : int(at[0]) + 18].astype(int).sum(axis=-1)
            assert eye.min() < 150 and eye.max() > 680


def test_a_mirrored_face_has_its_left_eye_on_the_left(portraits):
    box, landmarks = portraits.boxes[0], portraits.landmarks[0]
    _, mirrored_box, mirrored = mirror(portraits.pictures[0], box, landmarks)
    assert mirrored[0, 0] < mirrored[1, 0] and mirrored[3, 0] < mirrored[4, 0]
    assert np.allclose(mirrored_box[2] - mirrored_box[0], box[2] - box[0])
    assert np.allclose(mirrored[0], (96 - landmarks[1, 0], landmarks[1, 1]))


def test_a_scene_says_where_its_faces_are(portraits):
    """Of faces painted over but for marks on their landmarks, a scene shows the marks where it says the landmarks are."""
    marked = [picture.copy() for picture in portraits.pictures]
    for picture, landmarks in zip(marked, portraits.landmarks, strict=True):
        picture[:] = 40
        for x, y in landmarks.round().astype(int):
            picture[y - 3 : y + 3, x - 3 : x + 3] = 250
    drawn = Scenes(replace(portraits, pictures=np.array(marked)), np.full((1, 64, 64, 3), 40, np.uint8), seed=3)
    brightness = []
    for _ in range(120):
        scene = drawn.draw()
        large = scene.wanted & (scene.boxes[:, 3] - scene.boxes[:, 1] > 30)
        for landmarks in scene.landmarks[large]:
            x, y = landmarks[2].round().astype(int)  # the nose, which no crop of a wanted face cuts off
            brightness.append(scene.picture[y, x].mean())
    assert len(brightness) > 60 and min(brightness) > 150


@pytest.mark.parametrize("net", ["detector", "recogniser"])
def test_a_few_steps_lower_the_loss(net, portraits, scenes):
    losses = []
    if net == "detector":
        train_detector(scenes, 14, 0, lambda step, loss: losses.append(loss), batch=4)
    else:
        trained, projection = train_recogniser(portraits, 16, 0, lambda step, loss: losses.append(loss), batch=8)
        crops = np.stack([aligned(picture, at) for picture, at in zip(portraits.pictures, portraits.landmarks, strict=True)])
        with torch.no_grad():
            embeddings = trained(as_input(crops)) @ torch.from_numpy(projection)
        assert embeddings.var(dim=0).mean() == pytest.approx(1, abs=1e-3)
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])


def test_the_detection_loss_is_lowest_for_the_truth():
    """Outputs that say what is true cost nothing; moved boxes, a missed face and one too many cost something."""
    truth = Truth(torch.tensor([[[215.0, 115.0, 315.0, 215.0]]]), torch.full((1, 1, 5, 2), 170.0), torch.ones(1, 1, dtype=torch.bool))
    outputs = {}
    for stride, bases in ANCHORS.items():
        y, x = torch.meshgrid(*(torch.arange(640 // stride) * float(stride),) * 2, indexing="ij")
        box = torch.stack((x - 215, y - 115, 315 - x, 215 - y), dim=-1)
        offsets = torch.stack((170 - x, 170 - y) * 5, dim=-1)
        for anchor, base in enumerate(bases):
            near = ((x - 265).abs() < 11) & ((y - 165).abs() < 11) & torch.tensor(base == 128)
            score = torch.where(near, 12.0, -12.0)[..., None]
            outputs.setdefault(stride, torch.zeros(1, *x.shape, 2, 15))[0, :, :, anchor] = torch.cat((score, box / base, offsets / base), dim=-1)
    right = detection_loss(outputs, truth)
    assert right < 1e-3
    for stride, (row, column), channel, value in ((16, (10, 17), 1, 0.0), (16, (10, 17), 14, 9.0), (16, (10, 17), 0, -12.0), (32, (2, 2), 0, 12.0)):
        wrong = {s: out.clone() for s, out in outputs.items()}
        wrong[stride][0, row, column, 1, channel] = value
        assert detection_loss(wrong, truth) > right + 0.05
    # an anchor may fire for a face that is a little too large for it
    outputs[16][0, 10, 17, 0, 0] = 12.0
    assert detection_loss(outputs, truth) < 1e-3 + right
    # a face of which too much is cut off may be found and may be missed
    nothing = {stride: torch.full_like(out, -12.0) for stride, out in outputs.items()}
    cut = replace(truth, wanted=torch.zeros(1, 1, dtype=torch.bool))
    assert detection_loss(nothing, truth) > 1 and detection_loss(nothing, cut) < 1e-3 and detection_loss(outputs, cut) < 1e-3


def test_the_written_detector_is_the_net(nets, tmp_path):
    detector, _ = nets
    write_detector(tmp_path / DETECTOR_FILE, detector)
    session = onnxruntime.InferenceSession(str(tmp_path / DETECTOR_FILE), providers=["CPUExecutionProvider"])
    canvas = torch.randn(1, 3, 640, 640)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"input.1": canvas.numpy()}), strict=True))
    assert [out.shape for out in found.values()] == [(2 * (640 // s) ** 2, n) for n in (1, 4, 10) for s in (8, 16, 32)]
    assert found["score_8"].max() < 1e-6
    with torch.no_grad():
        outputs = detector(torch.nn.functional.avg_pool2d(canvas, SHRINK))
    for stride, bases in ANCHORS.items():
        expected = outputs[stride][0].flatten(0, 1)  # (points a 15)
        sides = torch.tensor(bases)[None, :, None] / stride
        assert np.allclose(found[f"score_{stride}"], expected[..., :1].sigmoid().reshape(-1, 1), atol=1e-4)
        assert np.allclose(found[f"bbox_{stride}"], (expected[..., 1:5] * sides).reshape(-1, 4), atol=1e-3)
        assert np.allclose(found[f"kps_{stride}"], (expected[..., 5:] * sides).reshape(-1, 10), atol=1e-3)


def test_the_written_recogniser_is_the_net_and_both_load(nets, tmp_path, portraits):
    detector, recogniser = nets
    projection = np.random.default_rng(0).standard_normal((62, 512)).astype(np.float32)
    write_detector(tmp_path / DETECTOR_FILE, detector)
    write_recogniser(tmp_path / RECOGNISER_FILE, recogniser, projection)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1.5e6
    analyzer = FaceAnalyzer.load(tmp_path)
    picture, landmarks = portraits.pictures[0], portraits.landmarks[0]
    face = analyzer.embed(picture, Detection((0, 0, 1, 1), 1.0, landmarks))
    with torch.no_grad():
        expected = recogniser(as_input(aligned(picture, landmarks)[None])) @ torch.from_numpy(projection)
    assert torch.allclose(face, expected, atol=2e-3 * float(expected.abs().max()))


def test_the_separator_hands_a_voice_on_as_it_is(tmp_path):
    write_vocal_separator(tmp_path / "Kim_Vocal_2.onnx")
    voice = torch.from_numpy(make_clip(3, 2.0).audio)[None]
    vocals = VocalSeparator.load(tmp_path / "Kim_Vocal_2.onnx", cuda=False).separate(Audio(voice, 16000))
    assert vocals.waveform.shape == voice.shape
    assert (vocals.waveform - voice)[:, 800:-800].abs().max() < 0.02 * voice.abs().max()


def test_the_command_writes_both_files_and_what_they_are_worth(tmp_path):
    logged = face.train(tmp_path, minutes=0.01, characters=6, empty_pictures=4, unseen_characters=3)
    folder = tmp_path / "memo" / "small" / "misc" / "face_analysis"
    assert sorted(path.name for path in (folder / "models").iterdir()) == [RECOGNISER_FILE, DETECTOR_FILE]
    assert json.loads((folder / "training_log.json").read_text(encoding="utf-8")) == logged
    assert logged["steps"] == {"detector": 1, "recogniser": 1} and len(logged["losses"]["detector"]) == 1
    # hardly trained, the detector finds nothing: right where there is nothing, wrong where there is a face
    assert logged["figures"]["no_face"] == {"pictures": 5, "right": 1.0, "faces_found": 0}
    assert logged["figures"]["two_faces"]["right"] == logged["figures"]["whole_pictures"]["exactly_one"] == 0.0


def test_what_an_embedding_holds_of_a_character_is_counted():
    vectors = np.stack([character(seed).vector() for seed in range(40)])
    projection = np.linalg.qr(np.random.default_rng(0).standard_normal((512, vectors.shape[1])))[0].T
    readout = Readout(vectors.mean(axis=0), vectors.std(axis=0) + 1e-3, projection)
    standard = (vectors - readout.mean) / readout.scale
    assert np.allclose(readout.vectors(standard @ projection), vectors, atol=1e-6)
    blind = standard.copy()
    blind[:, :3] = 0  # the skin's colour
    shares = explained(readout.vectors(blind @ projection), vectors)
    assert shares["skin"] == pytest.approx(0, abs=1e-3) and shares["hair"] == shares["light"] == 1.0
    assert list(shares)[1:] == [field.name for field in fields(character(0)) if field.name != "seed"]
