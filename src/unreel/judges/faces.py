"""Judge of identity: does a face in the frame belong to a person of whom you have pictures? `faces:FOLDER`.

The folder holds one picture a person, or one folder of pictures a person: `FOLDER/elon musk.jpg`,
`FOLDER/elon-musk/1.jpg`. The name is the label. Each picture must show one face only.

Detector and network are dlib's (Boost licence, here from the wheels of `dlib-bin`; an own build of `dlib` does as well).
Weights come with the package `face_recognition_models` (CC0, Davis King) as dlib's .dat files, which hold numbers, not
code. The five-point landmarks are used; the 68-point model in that package was trained on pictures barred from commercial
use.

A face is embedded in 128 dimensions; the nearest reference counts. dlib calls two faces the same person up to a distance
of 0.6, where the probability here is 0.5; it falls along a logistic curve, to 5 % at 0.75. The steepness is our choice,
and the probability no more calibrated than that.

Known limits: dlib reports 99.38 % accuracy on pairs of LFW, which are photographs; generated, drawn or turned-away faces
fare worse, and so may people of groups that were rare in its training set. Faces under about 40 pixels are not seen. It
runs on the CPU. Nobody has measured its error rate here.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unreel.errors import UnreelError, needs

if TYPE_CHECKING:
    import dlib

SAME_PERSON = 0.6
STEEPNESS = 20.0
PICTURES = (".jpg", ".jpeg", ".png", ".webp")


def load(argument: str = "", device: str = "cpu") -> "FacesJudge":
    """The judge of the people in the folder `argument`. Raises UnreelError for missing packages and unusable pictures."""
    if not argument or not Path(argument).is_dir():
        raise UnreelError(f"the judge 'faces' needs a folder of pictures of people, as faces:FOLDER, not {argument!r}")
    # Found but not imported: the package's own module needs pkg_resources, which setuptools no longer has.
    models = find_spec("face_recognition_models")
    try:
        import dlib
    except ImportError:
        dlib = None
    if dlib is None or models is None or models.origin is None:
        raise needs("the judge 'faces'", "dlib and face_recognition_models", "judges")
    weights = Path(models.origin).parent / "models"
    faces = Faces(
        dlib.get_frontal_face_detector(),
        dlib.shape_predictor(str(weights / "shape_predictor_5_face_landmarks.dat")),
        dlib.face_recognition_model_v1(str(weights / "dlib_face_recognition_resnet_model_v1.dat")),
    )
    return FacesJudge(faces, _people(Path(argument), faces))


@dataclass(frozen=True)
class Faces:
    """dlib's three steps from an image to embeddings."""

    detector: "dlib.fhog_object_detector"
    landmarks: "dlib.shape_predictor"
    network: "dlib.face_recognition_model_v1"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8 -> (faces, 128), enlarging once so that smaller faces are seen."""
        image = np.ascontiguousarray(image)
        points = [self.landmarks(image, box) for box in self.detector(image, 1)]
        return np.array([self.network.compute_face_descriptor(image, point) for point in points]).reshape(-1, 128)


@dataclass(frozen=True)
class FacesJudge:
    """Knows the people in `people`: embeddings (pictures, 128) by name."""

    faces: Faces
    people: dict[str, np.ndarray]
    name: str = "dlib faces"
    threshold: float = 0.5
    error: dict[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        known = hashlib.sha256()
        for name, pictures in sorted(self.people.items()):
            known.update(name.encode() + pictures.tobytes())
        return f"{self.name} of {known.hexdigest()[:16]}"

    @property
    def vocabulary(self) -> dict[str, list[str]]:
        return {"concept": list(self.people)}

    def knows(self, label: str) -> bool:
        return _plain(label) in self.people

    def wordings(self, label: str) -> list[str]:
        return []

    def probabilities(self, videos: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """As the protocol says; 0 where no face is found."""
        unknown = [label for label in labels if not self.knows(label)]
        if unknown:
            raise UnreelError(f"{self.name} has no picture of {unknown[0]!r}: it knows {', '.join(self.people)}")
        people = [self.people[_plain(label)] for label in labels]
        in_frames = [self.faces(frame) for video in videos for frame in video]
        rows = [[_probability(_nearest(faces, known)) for known in people] for faces in in_frames]
        return np.reshape(rows, (*videos.shape[:2], len(labels)))

    def features(self, videos: np.ndarray) -> None:
        """A frame without a face has none."""


def _nearest(faces: np.ndarray, known: np.ndarray) -> float:
    """(faces, 128), (pictures, 128) -> the least distance between any two, infinite without faces."""
    return np.linalg.norm(faces[:, None] - known[None], axis=-1).min(initial=np.inf)


def _probability(distance: float) -> float:
    return 0.5 * (1 - np.tanh(STEEPNESS / 2 * (distance - SAME_PERSON)))


def _plain(label: str) -> str:
    return " ".join(label.lower().replace("-", " ").replace("_", " ").split())


def _people(folder: Path, faces: Faces) -> dict[str, np.ndarray]:
    """Embeddings of everybody in the folder, by name."""
    from PIL import Image, ImageOps

    people: dict[str, list[np.ndarray]] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() not in PICTURES:
            continue
        try:
            with Image.open(file) as image:  # phones note how they were held instead of turning the picture
                picture = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UnreelError(f"{file} cannot be read as a picture: {error}") from error
        in_picture = faces(np.asarray(picture))
        if len(in_picture) != 1:
            raise UnreelError(f"{file} shows {len(in_picture)} faces: crop it to the one face of the person")
        name = file.stem if file.parent == folder else file.relative_to(folder).parts[0]
        people.setdefault(_plain(name), []).append(in_picture[0])
    if not people:
        raise UnreelError(f"{folder} holds no pictures ({', '.join(PICTURES)}) of people")
    return {name: np.stack(embeddings) for name, embeddings in people.items()}
