"""Run a frozen backbone fast: ONNX Runtime on a CPU, torch elsewhere.

A frozen backbone is a fixed function, which is why an inference engine may run it at all. The network is
exported once per fingerprint and input size; its features must agree with eager float32, checked on real
images at the export, or torch runs it and the user is told.

An engine takes stored pixels and the blur that they are seen through, because blurring, division by 255 and
normalisation are one pass over the image, done where the engine runs.
"""

import json
import threading
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import onnxruntime
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from blurtrain.backbones import FrozenBackbone, Preprocessing
from blurtrain.blur import blur, blur_pixels
from blurtrain.config import in_file_names
from blurtrain.cores import cores
from blurtrain.errors import StoreError
from blurtrain.files import file_sha256, remove_partial, sha256, whole_file, write_json
from blurtrain.kernels import has_kernel
from blurtrain.locks import held
from blurtrain.progress import meanwhile, say
from blurtrain.views import CLEAN, Blur

TOLERANCE = 1e-4  # of the features' scale: an engine that differs more is not used
CHECK_IMAGES = 8  # real ones on which a new export is compared with torch
EXPORT_VERSION = 2  # raise it when the same backbone would be exported otherwise
CPU_BATCH = 8  # per core: fewer images leave kernels short of work, more leave cores idle at the end of a view
GPU_BATCH = 4096  # as many as `batch_size` says
OPSET = 17  # the newest that the exporter and every supported ONNX Runtime know

Pixels = UInt8[np.ndarray, "batch 3 height width"]
Features = Float32[np.ndarray, "batch features"]


@runtime_checkable
class Engine(Protocol):
    """A frozen backbone as a function from pixels seen through a blur to features; calls may run side by side."""

    name: str  # with everything of the engine that may change a bit of the result
    parallel: int  # calls that keep the machine busy when they run side by side
    batch: int  # images of a call, beyond which nothing is gained

    def __call__(self, pixels: Pixels, view: Blur) -> Features:
        """Features of a batch."""


class TorchEngine:
    """Eager torch in channels-last layout, on a GPU where there is one.

    Two calls run side by side on a GPU, each in a stream of its own: the bytes of one batch are copied, from
    page-locked memory, while the other is blurred and run there.
    """

    def __init__(self, backbone: FrozenBackbone) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.name = f"torch {torch.__version__} {self.device.type}"
        self.parallel = 2 if self.device.type == "cuda" else 1
        self.batch = GPU_BATCH
        # ``to`` is in place: the layout and the device of the caller's backbone change, its values do not.
        self._backbone = backbone.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._local = threading.local()

    def __call__(self, pixels: Pixels, view: Blur) -> Features:
        """Features of a batch."""
        # TF32, which cuDNN uses unless told otherwise, would keep only three digits.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False), self._stream():
            images = self._images(pixels, view).contiguous(memory_format=torch.channels_last)
            return np.ascontiguousarray(self._backbone(images).cpu().numpy())

    def _images(self, pixels: Pixels, view: Blur) -> Float32[Tensor, "batch 3 height width"]:
        """The images seen through the blur, on the device."""
        if self.device.type == "cpu" or not has_kernel(view):  # such a blur is made on the CPU wherever the network is
            return torch.from_numpy(blur_pixels(pixels, view)).to(self.device)
        staged = torch.from_numpy(pixels).pin_memory()
        return blur(staged.to(self.device, non_blocking=True) / 255, view)

    def _stream(self) -> AbstractContextManager[object]:
        """The calling thread's own."""
        if self.device.type == "cpu":
            return nullcontext()
        if not hasattr(self._local, "stream"):
            self._local.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        return torch.cuda.stream(self._local.stream)


class OnnxEngine:
    """ONNX Runtime on the CPU; it folds batch norms and chooses a blocked memory layout itself.

    Each call runs in one thread and calls run side by side, one a core: blurring and the network then never wait for
    one another, and no core waits for another at the end of a layer.

    Args:
        path: Of the exported network, without normalisation.
        preprocessing: Of the weights; the normalisation rides along in the blur.
    """

    def __init__(self, path: Path, preprocessing: Preprocessing) -> None:
        self.name = f"onnxruntime {onnxruntime.__version__} cpu"
        self.parallel = cores()
        self.batch = CPU_BATCH
        self._mean, self._std = preprocessing.mean, preprocessing.std
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, pixels: Pixels, view: Blur) -> Features:
        """Features of a batch."""
        (features,) = self._session.run(None, {"images": blur_pixels(pixels, view, self._mean, self._std)})
        return np.asarray(features)


def build(
    backbone: FrozenBackbone,
    choice: Literal["auto", "onnxruntime", "torch"],
    cache: Path,
    sample: Pixels,
) -> Engine:
    """The engine for a backbone, by a fixed rule and never by timing, so that the same config gives the same bytes.

    Args:
        backbone: What it runs.
        choice: ``auto`` is ONNX Runtime without a GPU and torch with one.
        cache: Folder that keeps the exported network.
        sample: Pixels of real images on which a new export is compared with eager torch.

    Raises:
        StoreError: If the export cannot be written.
    """
    if choice == "torch" or (choice == "auto" and torch.cuda.is_available()):
        return TorchEngine(backbone)
    path = export_path(backbone, cache, sample.shape[-1])
    verdict = _stored_verdict(path)
    if verdict is None:
        with held(path.with_name(".lock"), f"exporting {backbone.name}"):
            remove_partial(path.parent)
            with meanwhile(f"exporting {backbone.name} for ONNX Runtime"):
                verdict = _stored_verdict(path) or _export(backbone, path, sample)
    if verdict["agrees"]:
        return OnnxEngine(path, backbone.preprocessing)
    say(f"note: torch runs {backbone.name}: {verdict['reason']}")
    return TorchEngine(backbone)


def export_path(backbone: FrozenBackbone, cache: Path, side: int) -> Path:
    """Where the exported network lies once it is made, for square images."""
    versions = (onnxruntime.__version__, torch.__version__, str(EXPORT_VERSION))
    key = sha256(backbone.fingerprint(), str(side), *versions)[:16]
    return cache / "engines" / f"{in_file_names(backbone.name)}-{key}" / "network.onnx"


def difference(engine: Engine, backbone: FrozenBackbone, sample: Pixels) -> float:
    """Largest difference from eager float32 features, relative to their largest magnitude."""
    with torch.inference_mode():
        eager = backbone(torch.from_numpy(blur_pixels(sample, CLEAN))).numpy()
    return float(np.abs(engine(sample, CLEAN) - eager).max() / max(np.abs(eager).max(), np.finfo(np.float32).tiny))


def _stored_verdict(path: Path) -> dict[str, str | bool] | None:
    """What an earlier export found; none where the file is not the one that was judged."""
    try:
        verdict: dict[str, str | bool] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if not verdict["agrees"] or verdict["sha256"] == file_sha256(path):
            return verdict
    except (OSError, ValueError, KeyError):
        return None
    return None


def _export(backbone: FrozenBackbone, path: Path, sample: Pixels) -> dict[str, str | bool]:
    """Export, compare with eager torch, and note the verdict beside the file."""
    reason, relative = "", float("inf")
    try:
        with whole_file(path) as temporary:
            _write_onnx(backbone, temporary, sample)
        relative = difference(OnnxEngine(path, backbone.preprocessing), backbone, sample)
        if not relative <= TOLERANCE:
            reason = f"ONNX Runtime's features differ by {relative:.1e} of their scale, more than {TOLERANCE:g}"
    except StoreError:
        raise
    except Exception as error:  # an exporter fails in as many ways as there are networks; torch runs them all
        words = str(error).partition("\n")[0][:120]
        reason = f"it cannot be exported ({type(error).__name__}: {words})"
    agrees = not reason
    verdict: dict[str, str | bool] = {
        "agrees": agrees,
        "reason": reason,
        "relative_difference": f"{relative:.2e}",
        "sha256": file_sha256(path) if path.exists() else "",
    }
    write_json(path.with_suffix(".json"), verdict)
    return verdict


class _ExportablePooling(TorchFunctionMode):
    """Adaptive average pooling as two matrix products where ONNX cannot say it otherwise.

    The exporter knows only outputs that divide the input, which is so for AlexNet and VGG at their own input size
    and hardly at any other.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever torch calls
        if func is not F.adaptive_avg_pool2d:
            return func(*args, **(kwargs or {}))
        images, outputs = args
        sides = [int(side) for side in images.shape[2:]]
        outputs = (outputs, outputs) if isinstance(outputs, int) else tuple(outputs)
        if all(side % output == 0 for side, output in zip(sides, outputs, strict=True)):
            return func(images, outputs)
        height, width = (_bin_means(side, output) for side, output in zip(sides, outputs, strict=True))
        return height @ images @ width.T


def _bin_means(side: int, bins: int) -> Float32[torch.Tensor, "bins side"]:
    """Means over the bins that torch's adaptive pooling forms, which overlap where bins do not divide side."""
    weights = torch.zeros(bins, side)
    for i in range(bins):
        start, stop = i * side // bins, -(-(i + 1) * side // bins)
        weights[i, start:stop] = 1 / (stop - start)
    return weights


class _Normalised(nn.Module):
    """The backbone on images that are normalised already."""

    def __init__(self, backbone: FrozenBackbone) -> None:
        super().__init__()
        self.network = backbone.network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images)
        return features.flatten(1)


def _write_onnx(backbone: FrozenBackbone, path: Path, sample: Pixels) -> None:
    images = torch.from_numpy(blur_pixels(sample[:2], CLEAN))
    write_onnx(_Normalised(backbone).eval(), path, images, "features")


def write_onnx(module: nn.Module, path: Path, images: Tensor, output: str) -> None:
    """Write a function of images as an ONNX graph.

    Args:
        module: In eval mode.
        path: The file.
        images: A batch of the size and type that it will be given; the number of images stays free.
        output: What the result is called.
    """
    with warnings.catch_warnings(), _ExportablePooling():
        # The TorchScript route is announced as deprecated; it needs 0.3 s where the newer one needs 5 to 20.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (images,),
            str(path),
            input_names=["images"],
            output_names=[output],
            dynamic_axes={"images": {0: "batch"}, output: {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
