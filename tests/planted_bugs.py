"""Breaks the code in known ways, one after another, and demands that the tests notice each: `make planted-bugs`.

Every bug is one piece of source text that a tired person might have written otherwise, so that nothing crashes and a
number comes out wrong. It is planted in a copy of the repository, and a few named tests must then fail by an assertion
of their own: neither by an exception within the package nor by an import that does not work, which anything would
notice. Before, the same tests must pass.

A bug whose text is not found exactly once no longer fits the code. Then the code was changed, and the bug must be, too.
"""

import argparse
import importlib
import importlib.util
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

import pytest

ROOT = Path(__file__).parents[1]
COPIED = ("blurtrain", "tests", "configs", "docs", "benchmarks", "pyproject.toml", "README.md", "Makefile")
PATIENCE = 1200  # seconds for one call of pytest
MOST_CHARACTERS = 100  # of a test's name: parameters may be whole arrays
GRACE = 30  # seconds that a process has to end once its tests have
SAID = 4000  # characters of pytest's output that are shown where tests fail before a bug is planted
# Imported once, by the process that all others are forked from: they take seconds, and no bug is in them.
PRELOADED = ["torchvision.models", "pytorch_lightning", "torchmetrics.classification", "torch.utils.tensorboard"]
PRELOADED += ["onnxruntime", "scipy.signal", "scipy.stats", "sklearn.metrics", "statsmodels.api"]
if importlib.util.find_spec("huggingface_hub") is None:  # albumentations would import it, and then dies in a fork
    PRELOADED.append("albumentations")
FORKS = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Bug:
    """A wrong piece of code.

    Args:
        name: What is wrong.
        module: Of the package.
        old: A piece of its text that occurs once.
        new: What a tired person might have written.
        tests: That must notice, as pytest names them, within the folder of tests.
        why: What would be wrong in the numbers.
    """

    name: str
    module: str
    old: str
    new: str
    tests: str
    why: str

    def planted(self, text: str) -> str:
        """The module with the bug in it.

        Raises:
            ValueError: If the piece does not occur exactly once.
        """
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: blurtrain/{self.module}.py has {count} times {self.old!r}")
        return text.replace(self.old, self.new)


BUGS = (
    # imported networks with their own heads
    Bug(
        "folders' labels for outputs",
        "own_head",
        "self.targets[self.images.labels[self.images.test]]",
        "self.images.labels[self.images.test]",
        "test_pretrained.py::test_predictions_are_torchvisions",
        "the network is right about classes that happen to stand in the same place",
    ),
    Bug(
        "relative corruption error against AlexNet's whole error",
        "mce",
        "alexnet - ALEXNET_CLEAN",
        "alexnet",
        "test_pretrained.py::test_corruption_errors_by_hand",
        "every network seems to lose less by blur than AlexNet",
    ),
    Bug(
        "index believed against the WordNet id",
        "class_folders",
        "by_id not in (None, by_index)",
        "by_index < 0",
        "test_pretrained.py::test_other_names_stand_for_no_output",
        "a folder that was numbered otherwise counts as another class",
    ),
    Bug(
        "training images counted as test images",
        "folder_source",
        'for place, split in places.items() if split == "test"}',
        'for place, split in places.items() if split != "validation"}',
        "test_pretrained.py::test_of_split_folders_the_test_split_alone_is_used",
        "a network is tested on what it may have been trained on",
    ),
    # kernels
    Bug(
        "kernel not normalised",
        "kernels",
        "taps /= taps.sum()",
        "taps /= taps.max()",
        "test_kernels.py::test_gaussian_is_scipys_impulse_response",
        "blurred images are brighter by the sum of the weights",
    ),
    Bug(
        "gaussian cut at three sigma",
        "kernels",
        "TRUNCATE = 4.0",
        "TRUNCATE = 3.0",
        "test_kernels.py::test_gaussian_is_scipys_impulse_response",
        "every gaussian is narrower than its sigma",
    ),
    Bug(
        "half of a disk's middle column",
        "kernels",
        "    quadrant[:, 0] *= 2\n",
        "",
        "test_kernels.py::test_disk_is_its_area_in_each_pixel",
        "the pixels on the axes get too little light",
    ),
    Bug(
        "angle of motion clockwise",
        "kernels",
        "-np.rint(middles * up)",
        "np.rint(middles * up)",
        "test_kernels.py::test_line_is_its_length_in_each_pixel",
        "a blur at 30 degrees is one at -30",
    ),
    Bug(
        "trail of motion to the other side",
        "kernels",
        "-math.sin(math.radians(angle))",
        "math.sin(math.radians(angle))",
        "test_kernels.py::test_half_gaussian_is_imagemagicks_motion_blur",
        "the trail of a point falls instead of rising",
    ),
    Bug(
        "spread of a continuous box",
        "kernels",
        "(blur.strength**2 - 1) / 12",
        "blur.strength**2 / 12",
        "test_kernels.py::test_spread_is_the_formula_of_the_family",
        "small boxes count as wider than they are",
    ),
    Bug(
        "heavy only beyond the factor",
        "kernels",
        "spread(view, side) >= HEAVY",
        "spread(view, side) > HEAVY",
        "test_kernels.py::test_default_sweep_is_heavy_from_twice_the_strongest_copy",
        "the view at exactly twice the strongest copy drops out of the heavy mean",
    ),
    Bug(
        "heavy by the weakest copy",
        "kernels",
        "strongest = max(",
        "strongest = min(",
        "test_kernels.py::test_default_sweep_is_heavy_from_twice_the_strongest_copy",
        "blurs that the training nearly contains count as heavy",
    ),
    Bug(
        "heavy by the strength",
        "kernels",
        "spread(view, side) >= HEAVY",
        "view.strength >= HEAVY",
        "test_kernels.py::test_heavy_is_measured_by_the_spread_whatever_the_family",
        "a box of 3 px, narrower than a gaussian of 1 px, counts as heavy beside it",
    ),
    # convolution
    Bug(
        "weights not normalised",
        "convolution",
        "np.sort(weights, axis=None).sum()",
        "np.sort(weights, axis=None).max()",
        "test_kernels.py::test_disk_is_its_area_in_each_pixel",
        "images blurred by a disk or a line are too bright",
    ),
    Bug(
        "covariance about the origin",
        "convolution",
        " - (vertical @ rows) * (horizontal @ columns)",
        "",
        "test_kernels.py::test_norms_and_moments_are_those_of_the_two_dimensional_weights",
        "the width of a measured kernel depends on where its middle lies",
    ),
    Bug(
        "kernels that are nearly separable",
        "convolution",
        "SEPARABLE = 1e-7",
        "SEPARABLE = 0.2",
        "test_kernels.py::test_other_kernels_are_no_outer_products",
        "a small disk is blurred as the square around it",
    ),
    # psf
    Bug(
        "even file shifted",
        "psf",
        "(0, 1 - n % 2)",
        "(1 - n % 2, 0)",
        "test_psf.py::test_centre_of_an_even_side_is_where_fftshift_puts_it",
        "a measured kernel of an even side moves the image by a pixel",
    ),
    Bug(
        "measured kernel scaled the other way",
        "kernels",
        "psf.scaled(file, scale)",
        "psf.scaled(file, 1 / scale)",
        "test_psf.py::test_whole_factor_repeats_each_value",
        "strength .5 is twice as strong as strength 1",
    ),
    # files
    Bug(
        "parts of a hash that run together",
        "files",
        '        digest.update(len(data).to_bytes(8, "little"))\n',
        "",
        "test_files.py::test_parts_do_not_run_together",
        "different inputs have the same name",
    ),
    # blur
    Bug(
        "one axis only, by OpenCV",
        "blur",
        "cv2.CV_32F, across, down, dst=target",
        "cv2.CV_32F, across, np.full(1, scale, np.float32), dst=target",
        "test_blur.py::test_blurred_pixels_match_scipy",
        "images are blurred along their rows alone",
    ),
    Bug(
        "one axis only, by matrices",
        "blur",
        " @ images @ torch.from_numpy(horizontal).to(images).mT",
        " @ images",
        "test_blur.py::test_matrix_products_match_scipy",
        "images are blurred along their columns alone",
    ),
    Bug(
        "correlated by OpenCV's separable filter",
        "blur",
        "made.horizontal[::-1].astype",
        "made.horizontal.astype",
        "test_blur.py::test_lopsided_kernel_moves_every_kind_of_image_the_same_way",
        "a lopsided kernel moves the image the wrong way",
    ),
    Bug(
        "correlated by OpenCV's direct filter",
        "blur",
        "taps = (made.weights[::-1, ::-1] * scale)",
        "taps = (made.weights * scale)",
        "test_blur.py::test_point_of_light_becomes_the_kernel_as_seen",
        "a trail points the wrong way",
    ),
    Bug(
        "correlated in pieces",
        "blur",
        "_cut((made.weights[::-1, ::-1] * scale)",
        "_cut((made.weights * scale)",
        "test_blur.py::test_point_of_light_becomes_the_kernel_as_seen",
        "a long trail points the wrong way",
    ),
    Bug(
        "correlated by Fourier transforms",
        "blur",
        "scipy.fft.rfft2(made.weights, size)",
        "scipy.fft.rfft2(made.weights[::-1, ::-1], size)",
        "test_blur.py::test_point_of_light_becomes_the_kernel_as_seen",
        "a large measured kernel is turned upside down",
    ),
    Bug(
        "correlated by shifts",
        "blur",
        "_padded_tensor(images, made, border), made.weights[::-1, ::-1]",
        "_padded_tensor(images, made, border), made.weights",
        "test_blur.py::test_every_family_matches_scipy",
        "a short trail points the wrong way on a GPU",
    ),
    Bug(
        "correlated by a matrix",
        "blur",
        "taps[::-1][window >= 0]",
        "taps[window >= 0]",
        "test_blur.py::test_border_matrix_is_a_convolution_of_the_padded_axis",
        "a lopsided kernel moves the image the wrong way on a GPU",
    ),
    Bug(
        "border ignored by OpenCV's separable filter",
        "blur",
        "across, down, dst=target, delta=shift, borderType=rule)",
        "across, down, dst=target, delta=shift)",
        "test_blur.py::test_blurred_pixels_match_scipy",
        "every gaussian has the default border, whatever the config says",
    ),
    Bug(
        "border ignored by padding",
        "blur",
        "left, left, _OPENCV_BORDERS[border])",
        "left, left, cv2.BORDER_REFLECT_101)",
        "test_blur.py::test_every_family_matches_scipy",
        "every long or large kernel has the default border",
    ),
    Bug(
        "reflection that ends a pixel late",
        "blur",
        "period = max(2 * n - 2, 1)",
        "period = max(2 * n - 1, 1)",
        "test_blur.py::test_border_matrix_is_a_convolution_of_the_padded_axis",
        "the far edge of an image is continued by the wrong pixels",
    ),
    Bug(
        "pixels divided by 256",
        "blur",
        "_filter(pixels, kernel(view, side), border_of(view), scale / 255, shift)",
        "_filter(pixels, kernel(view, side), border_of(view), scale / 256, shift)",
        "test_blur.py::test_blurred_pixels_match_scipy",
        "blurred images are darker than clean ones",
    ),
    Bug(
        "normalised before the blur",
        "blur",
        "_seen(pixels, view, 1 / deviation, shift)",
        "_filter(pixels - np.float32(127.5), kernel(view), view.border, 1 / deviation / 255, shift) + np.float32(0.5)",
        "test_blur.py::test_zero_border_darkens_the_edge_alone",
        "the zero beyond the edge is the mean colour and no longer black",
    ),
    # views
    Bug(
        "blur named without its angle",
        "views",
        'angle = "" if self.angle is None else f" at {self.angle:g} degrees"',
        'angle = ""',
        "test_config.py::test_blur_is_named_by_all_that_it_is",
        "two directions share their stored predictions",
    ),
    # transforms
    Bug(
        "draws that depend on what was drawn before",
        "transforms",
        "    transform.set_random_state(np.random.default_rng(sequence), random.Random(number))\n",
        "",
        "test_transforms.py::test_workers_order_and_batches_change_nothing",
        "a run cannot be repeated, and workers change it",
    ),
    Bug(
        "draws without the image's number",
        "transforms",
        "spawn_key=(epoch, index)",
        "spawn_key=(epoch,)",
        "test_transforms.py::test_seed_epoch_and_image_each_matter",
        "all images of an epoch get the same random blur",
    ),
    Bug(
        "8 bit cut off, not rounded",
        "transforms",
        "cv2.convertScaleAbs(plane, alpha=255)",
        "(255 * plane).astype(np.uint8)",
        "test_transforms.py::test_bytes_are_rounded_once_at_the_end",
        "copies are darker than their originals by half a level",
    ),
    Bug(
        "border lost on the way to albumentations",
        "transforms",
        "view.angle, view.border, view.file, p=1",
        "view.angle, file=view.file, p=1",
        "test_transforms.py::test_a_view_and_its_transform_name_the_same_blur",
        "copies of `cache: false` have another border than stored ones",
    ),
    # store
    Bug(
        "checksum not compared",
        "store",
        "if not np.array_equal(_checksums(values), expected):",
        "if len(values) != len(expected):",
        "test_store.py::test_flipped_bit_is_never_read",
        "damaged features are used as if they were the backbone's",
    ),
    Bug(
        "rows of other images",
        "store",
        "*rows])[order]",
        "*rows])",
        "test_store.py::test_rows_come_back_in_the_order_asked",
        "images get the features of their neighbours",
    ),
    # decoding
    Bug(
        "blue, green and red",
        "decoding",
        "square.transpose(2, 0, 1)",
        "square[..., ::-1].transpose(2, 0, 1)",
        "test_decoding.py::test_channels_are_red_green_blue",
        "the backbone sees other colours than it was trained on",
    ),
    Bug(
        "resized without antialias",
        "decoding",
        "image.resize(self.resized(*image.size), Image.Resampling[self.interpolation])",
        "image.transform(self.resized(*image.size), Image.Transform.EXTENT, (0, 0, *image.size), "
        "Image.Resampling[self.interpolation])",
        "test_decoding.py::test_shrinking_antialiases",
        "large images are sharper and noisier than the backbone knows them",
    ),
    Bug(
        "crop off by one",
        "decoding",
        "top, left = round((height - side) / 2)",
        "top, left = (height - side) // 2",
        "test_decoding.py::test_geometry_is_torchvisions_bit_for_bit",
        "images of some heights are a pixel higher than torchvision has them",
    ),
    Bug(
        "longer side rounded",
        "decoding",
        "int(self.resize * max(width, height)",
        "round(self.resize * max(width, height)",
        "test_decoding.py::test_geometry_is_torchvisions_bit_for_bit",
        "images of some proportions are stretched",
    ),
    Bug(
        "camera's orientation ignored",
        "decoding",
        "_to_rgb(ImageOps.exif_transpose(image))",
        "_to_rgb(image)",
        "test_decoding.py::test_image_is_turned_upright",
        "photographs in portrait format lie on their side",
    ),
    Bug(
        "16-bit grey cut to its upper byte",
        "decoding",
        "astype(np.float64) / 257",
        "astype(np.float64) // 256",
        "test_decoding.py::test_sixteen_bit_grey_is_scaled",
        "deep images are darker than their 8-bit copies",
    ),
    # glyphs and sources
    Bug(
        "test fonts in training",
        "glyphs",
        "TARGET_FONTS = tuple(DEJAVU)",
        "TARGET_FONTS = tuple(DEJAVU | STIX)",
        "test_glyphs.py::test_superfamilies_of_the_test_split_occur_nowhere_else",
        "the embedded test split is in typefaces that were trained on",
    ),
    Bug(
        "one random stream for all splits",
        "glyphs",
        '_generator(f"glyphs {task} {split} {seed}")',
        '_generator(f"glyphs {task} {seed}")',
        "test_glyphs.py::test_no_two_splits_or_seeds_share_a_random_stream",
        "test digits repeat the size, place and colours of training digits",
    ),
    Bug(
        "every glyph a unit of its own",
        "sources",
        "group=glyph.font",
        "group=None",
        "test_sources.py::test_embedded_set_is_drawn_as_its_recipes_say",
        "intervals are too narrow, and folds share their fonts",
    ),
    Bug(
        "validation folder trained on",
        "sources",
        '"val": "validation"',
        '"val": "train"',
        "test_sources.py::test_validation_folder_has_several_names",
        "a given validation split joins the training images",
    ),
    Bug(
        "skipped image that shifts the others",
        "sources",
        "[self.whole.items[index] for index in self.indices]",
        "self.whole.items[: len(self.indices)]",
        "test_skip.py::test_skipped_images_change_no_image_set",
        "behind a bad image every image has the name, label and split of another one",
    ),
    Bug(
        "classes of photographs by their own order",
        "folder_source",
        "label = {known: i for i, known in enumerate(classes)}",
        "label = {text_of(folder.name): i for i, folder in enumerate(folders)}",
        "test_real.py::test_they_are_images_like_all_others_and_in_no_split",
        "photographs of some of the classes are judged by the names of others",
    ),
    # spreadsheets, shards and data sets
    Bug(
        "two rows of one image",
        "manifests",
        "if before is not row:",
        "if before == row:",
        "test_manifests.py::test_table_that_cannot_be_used_is_refused_in_words",
        "an image is trained on as two classes, or trained on and tested",
    ),
    Bug(
        "header of a shard for its image",
        "shard_index",
        "image.offset_data, image.size",
        "image.offset, image.size",
        "test_shards.py::test_key_is_the_hash_of_the_images_bytes_and_the_name_tells_its_format",
        "no image of a shard can be read",
    ),
    Bug(
        "shard that is cut short",
        "shard_index",
        "!= tarfile.NUL * tarfile.BLOCKSIZE",
        "== b'x'",
        "test_shards.py::test_shard_that_is_cut_short_is_never_taken_for_a_shorter_one",
        "half of a shard that was not copied whole is trained on without a word",
    ),
    Bug(
        "classes of a data set by the alphabet",
        "torchvision_sets",
        "data.classes[label]) for path, label in (data[row]",
        "sorted(data.classes)[label]) for path, label in (data[row]",
        "test_datasets.py::test_labels_are_those_that_torchvision_gives",
        "flowers have the names of others",
    ),
    # splits
    Bug(
        "training images among the photographs",
        "splits",
        "_by_content(own & ~known, ids, labels)",
        "_by_content(own, ids, labels)",
        "test_real.py::test_duplicates_of_fitted_images_leave_the_set_and_not_the_fit",
        "heads are tested on what they were trained on",
    ),
    Bug(
        "duplicates across splits kept",
        "splits",
        " & ~np.isin(ids, ids[np.r_[test, validation]])",
        "",
        "test_splits.py::test_duplicates_leave_training_and_validation",
        "test images are trained on under another name",
    ),
    Bug(
        "folds not stratified",
        "splits",
        "np.where(lowest == highest, lowest, -1)",
        "np.full(len(units), -1)",
        "test_splits.py::test_single_images_are_stratified_exactly",
        "rare classes are missing in some folds",
    ),
    # images
    Bug(
        "content without the size",
        "reading",
        "hashlib.sha256(f\"{image.width}x{image.height}{f' 1/{scale}' if scale > 1 else ''}\".encode())",
        "hashlib.sha256()",
        "test_images.py::test_images_of_other_shape_with_the_same_bytes_differ",
        "different images share their features",
    ),
    Bug(
        "native scale inverted",
        "images",
        "np.median(sizes.min(axis=1)[:first]) / geometry.resize",
        "geometry.resize / np.median(sizes.min(axis=1)[:first])",
        "test_images.py::test_native_scale_is_that_of_the_median_image",
        "strengths in pixels of the files are wrong by the square of the scale",
    ),
    Bug(
        "pixels stored without their interpolation",
        "reading",
        '        "interpolation": geometry.interpolation,\n',
        "",
        "test_images.py::test_other_geometry_never_gives_these_pixels",
        "a backbone reads pixels that were resized for another one",
    ),
    Bug(
        "duplicates as units of their own",
        "images",
        "item.group or id_.decode()",
        "item.group or item.name",
        "test_images.py::test_groups_are_contents_in_folders_and_fonts_in_the_embedded_set",
        "one image counts twice in every interval, and lies in two folds",
    ),
    Bug(
        "groups divided among folds",
        "images",
        "deal(images.ids[images.train], labels, groups, count)",
        "deal(images.ids[images.train], labels, np.arange(len(labels)), count)",
        "test_images.py::test_folds_of_the_embedded_set_never_divide_a_font",
        "the penalty is chosen on fonts that were trained on",
    ),
    # cutting and weights
    Bug(
        "auxiliary classifiers kept",
        "cutting",
        "return tuple(idle)",
        "return ()",
        "test_backbones.py::test_last_layer_and_idle_parts_are_found_by_running",
        "parts that never run decide the fingerprint and the count of parameters",
    ),
    Bug(
        "batch-norm statistics not loaded",
        "weights",
        ".contiguous() for key, tensor in given.items()})",
        '.contiguous() for key, tensor in given.items() if "running" not in key})',
        "test_families.py::test_import_keeps_every_weight_but_the_heads[glyphnet]",
        "the backbone is not the one that was imported",
    ),
    Bug(
        "hash of the weights not compared",
        "weights",
        "file_sha256(path) != expected_sha256.lower()",
        "not expected_sha256.strip()",
        "test_backbones.py::test_wrong_hash_is_refused",
        "other weights than the config's are used",
    ),
    # backbones
    Bug(
        "batch norm unfrozen",
        "backbones",
        "        self.network.eval()\n",
        "        self.network.train(mode)\n",
        "test_families.py::test_train_mode_reaches_and_changes_nothing[glyphnet]",
        "features depend on their batch, and training moves the statistics",
    ),
    Bug(
        "backbone trained along",
        "backbones",
        "network.requires_grad_(False).eval()",
        "network.eval()",
        "test_classifier.py::test_optimizer_holds_the_head_alone",
        "more than the head is retrained",
    ),
    Bug(
        "normalised as another network",
        "backbones",
        "tuple(preset.mean), tuple(preset.std)",
        "glyphnet.MEAN, glyphnet.STD",
        "test_backbones.py::test_preprocessing_is_that_of_torchvisions_preset[resnet18]",
        "imported networks see images in colours that they do not know",
    ),
    Bug(
        "standard deviation of the colours forgotten",
        "backbones",
        "(images - self.mean) / self.std",
        "images - self.mean",
        "test_families.py::test_features_through_the_last_layer_are_the_logits[glyphnet]",
        "imported networks see images of too little contrast",
    ),
    Bug(
        "interpolated as another network",
        "backbones",
        "preset.interpolation.name)",
        '"BILINEAR")',
        "test_backbones.py::test_a_network_without_v1_weights_is_prepared_for_as_its_first_ones",
        "networks that were trained on bicubic images see others",
    ),
    Bug(
        "fingerprint without the statistics",
        "backbones",
        "for key in sorted(state):",
        "for key in sorted(key for key, _ in self.network.named_parameters()):",
        "test_backbones.py::test_fingerprint_changes_with_any_tensor",
        "features of another network are found in the store",
    ),
    Bug(
        "random weights without a seed",
        "origins",
        "torch.default_generator.manual_seed(RANDOM_SEED)",
        "torch.default_generator.seed()",
        "test_backbones.py::test_random_weights_are_the_same_every_time",
        "the same config gives other numbers every time",
    ),
    Bug(
        "code run because a file names it",
        "trust",
        "if name not in _allowed:",
        "if not name:",
        "test_own_networks.py::test_a_config_file_starts_no_code[command0]",
        "a config from anywhere runs code",
    ),
    Bug(
        "any backbone on the command line is leave for all",
        "trust",
        "if name not in _allowed:",
        "if not _allowed:",
        "test_own_networks.py::test_only_the_option_itself_names_it[words1]",
        "a config from anywhere runs code beside the function that was named",
    ),
    Bug(
        "code not in the fingerprint",
        "backbones",
        "parts += [self.code] if self.code else []",
        "parts += []",
        "test_own_networks.py::test_settings_that_are_no_weights_tell_networks_apart",
        "features of another network are found in the store",
    ),
    Bug(
        "one of two networks in a checkpoint taken",
        "weights",
        "if len(fitting) > 1:",
        "if len(fitting) > 2:",
        "test_own_networks.py::test_two_networks_in_a_checkpoint_are_refused",
        "nobody knows whether the averaged weights were meant",
    ),
    Bug(
        "constants of a hollow network without values",
        "cutting",
        "if any(constant.is_meta for constant in _constants(network)) else network",
        "if not network else network",
        "test_timm.py::test_constants_that_no_file_brings_back_are_real",
        "antialiased networks of timm compute with what happens to lie in memory",
    ),
    Bug(
        "resize of timm's networks rounded up",
        "timm_networks",
        'math.floor(crop / config["crop_pct"])',
        'math.ceil(crop / config["crop_pct"])',
        "test_timm.py::test_preprocessing_is_timms[resnet10t]",
        "imported networks see images in another scale than they were evaluated on",
    ),
    Bug(
        "norms computed for a list",
        "stages",
        "constant = norms[node.index] if node.index in norms else _constant(trace, node, modules)",
        "constant = norms.get(node.index, _constant(trace, node, modules))",
        "test_catalogue.py::test_norms_of_large_linear_layers_are_not_computed",
        "blurtrain backbones --measure takes minutes for VGG",
    ),
    Bug(
        "head counted as frozen",
        "catalogue",
        " if not cut.removes(key))",
        ")",
        "test_catalogue.py::test_figures_are_those_of_a_real_network[glyphnet]",
        "the list states too many frozen parameters",
    ),
    # engines
    Bug(
        "engine judged by its mean error",
        "engines",
        "np.abs(engine(sample, CLEAN) - eager).max()",
        "np.abs(engine(sample, CLEAN) - eager).mean()",
        "test_engines.py::test_difference_sees_a_wrong_feature",
        "an engine with a few wrong features is used",
    ),
    Bug(
        "engine judged by errors of one sign",
        "engines",
        "np.abs(engine(sample, CLEAN) - eager).max()",
        "(engine(sample, CLEAN) - eager).max()",
        "test_engines.py::test_difference_sees_a_wrong_feature",
        "an engine whose features are too small is used",
    ),
    Bug(
        "export of other weights",
        "engines",
        "sha256(backbone.fingerprint(), ",
        "sha256(backbone.name, ",
        "test_engines.py::test_another_network_or_size_is_another_export",
        "a network with other weights is run by an older export",
    ),
    Bug(
        "pooling bins that do not overlap",
        "engines",
        "-(-(i + 1) * side // bins)",
        "(i + 1) * side // bins",
        "test_engines.py::test_adaptive_pooling_is_exported_whatever_the_size",
        "AlexNet and VGG give other features where they are exported",
    ),
    Bug(
        "exported network without normalisation",
        "engines",
        "blur_pixels(pixels, view, self._mean, self._std)",
        "blur_pixels(pixels, view)",
        "test_engines.py::test_engine_blurs_and_then_normalises",
        "every network sees images that it was not trained on",
    ),
    Bug(
        "photographs that decide how training images are decoded",
        "reduction",
        "item.extra_test is None and header",
        "header",
        "test_real.py::test_other_formats_in_a_set_do_not_change_how_training_images_are_decoded",
        "what is trained on depends on what is tested on",
    ),
    Bug(
        "reduced though another format has the same picture",
        "reduction",
        " or _sides(header) in others",
        "",
        "test_reduction.py::test_duplicate_in_another_format_keeps_its_name",
        "the same photograph as JPEG and as PNG is in training and in test",
    ),
    Bug(
        "reduced and full pixels under one key",
        "reduction",
        'return key if scale == 1 else sha256(key, f"1/{scale}")',
        "return key",
        "test_reduction.py::test_key_tells_how_it_is_decoded",
        "a photograph has other pixels than its name says when a file of another format is added",
    ),
    # features
    Bug(
        "features of one batch given to another",
        "features",
        "yield running.popleft().result()\n        while running",
        "yield running.pop().result()\n        while running",
        "test_features.py::test_as_many_calls_run_side_by_side_as_the_engine_can_use",
        "images have one another's features wherever there is more than one core",
    ),
    Bug(
        "features stored without the strength",
        "features",
        '        key = {\n            "kind": "features",',
        "        view = type(view)(view.family, min(view.strength, 1.0), view.angle, view.border, view.file)\n"
        '        key = {\n            "kind": "features",',
        "test_features.py::test_another_view_is_another_table",
        "every strength reads the features of the first one",
    ),
    Bug(
        "features stored without the border",
        "features",
        '        key = {\n            "kind": "features",',
        "        view = type(view)(view.family, view.strength, view.angle, file=view.file)\n"
        '        key = {\n            "kind": "features",',
        "test_features.py::test_another_view_is_another_table",
        "every border reads the features of the first one",
    ),
    Bug(
        "features stored without what a file holds",
        "features",
        ", *filter(None, [content(view)])]",
        "]",
        "test_features.py::test_table_of_a_measured_blur_is_keyed_by_what_the_file_holds",
        "a kernel that was measured again reads the features of the old one",
    ),
    Bug(
        "features stored without the fingerprint",
        "features",
        '            "fingerprint": self.fingerprint,\n',
        "",
        "test_features.py::test_another_network_geometry_or_engine_never_reads_these_rows",
        "a network reads the features of another one whose fingerprint begins alike",
    ),
    Bug(
        "resized after the blur",
        "features",
        "copies.seen(images.read_pixels(positions), images.ids[positions], view)",
        "copies.seen(images.read_pixels(positions), images.ids[positions], "
        "type(view)(view.family, view.strength / images.native_scale, view.angle, view.border, view.file))",
        "test_features.py::test_features_are_those_of_a_direct_computation",
        "a strength is in pixels of the files, another blur for every image size",
    ),
    # lbfgs, heads and fitting
    Bug(
        "gradients of one sign",
        "lbfgs",
        "self._gradients.abs().amax(1)",
        "self._gradients.amax(1)",
        "test_lbfgs.py::test_quadratic_ends_at_its_minimum",
        "heads count as solved long before they are",
    ),
    Bug(
        "penalty not applied",
        "heads",
        "/ scales + l2 * weights\n",
        "/ scales\n",
        "test_heads.py::test_gradient_matches_autograd",
        "every candidate penalty gives the same, overfitted head",
    ),
    Bug(
        "bias penalised",
        "heads",
        "weights.square().sum((1, 2))\n        gradients = torch.cat([gradient, by_shift[..., None]], -1)",
        "theta.square().sum((1, 2))\n        gradients = torch.cat([gradient, (by_shift + l2 * bias)[..., None]], -1)",
        "test_heads.py::test_bias_is_not_penalised",
        "rare classes are predicted too often",
    ),
    Bug(
        "standardised by the folds' own rows",
        "heads",
        "means, scales = _standardisation(batch)",
        "means, scales = _standardisation(batch._replace(training=batch.training | batch.validation))",
        "test_heads.py::test_validation_rows_do_not_reach_their_folds_head",
        "statistics of held-out rows reach the head that is validated on them",
    ),
    Bug(
        "standardised by all rows there are",
        "heads",
        "means, scales = _standardisation(batch)",
        "means, scales = _standardisation(batch._replace(training=torch.ones_like(batch.training)))",
        "test_heads.py::test_rows_of_a_given_validation_split_reach_no_head",
        "statistics of the validation split reach every head",
    ),
    Bug(
        "penalty chosen on the training loss",
        "heads",
        "key=lambda candidate: candidate.figures[1])",
        "key=lambda candidate: candidate.figures[0])",
        "test_heads.py::test_chosen_penalty_has_the_lowest_mean_validation_loss",
        "the weakest penalty always wins",
    ),
    Bug(
        "standardisation folded in with the wrong sign",
        "heads",
        "bias = theta[..., -1] - (weights * self.means[splits][:, None]).sum(-1)\n        return Heads",
        "bias = theta[..., -1] + (weights * self.means[splits][:, None]).sum(-1)\n        return Heads",
        "test_heads.py::test_folded_head_equals_the_standardised_one",
        "the saved head is not the one that was fitted",
    ),
    Bug(
        "refit counted among the folds",
        "heads",
        "self.figures[:, :-1].mean(1)",
        "self.figures.mean(1)",
        "test_heads.py::test_chosen_penalty_has_the_lowest_mean_validation_loss",
        "validation losses are too low by a fold that validates on nothing",
    ),
    Bug(
        "refitted on validation rows",
        "fitting",
        "refit = training.any(0, keepdims=True)",
        "refit = (training | validation).any(0, keepdims=True)",
        "test_heads.py::test_rows_of_a_given_validation_split_reach_no_head",
        "the exported head has seen the given validation split",
    ),
    Bug(
        "folds started anew are not solved",
        "heads",
        "solver.step(objective)\n",
        "solver.step(objective)\n            break\n",
        "test_heads.py::test_heads_match_sklearn",
        "heads are what is found after a step or two",
    ),
    Bug(
        "curvature of the other rows",
        "curvature",
        "rows.block(some)[mask[some]]",
        "rows.block(some)[~mask[some]]",
        "test_curvature.py::test_blocks_are_those_of_the_hessian",
        "solving takes many times longer",
    ),
    Bug(
        "rows read from the wrong place",
        "rows",
        "seek(4 * start * self.width)",
        "seek(start * self.width)",
        "test_rows.py::test_rows_are_the_same_in_memory_and_in_a_file",
        "large sets are fitted to other images' features",
    ),
    # adaptation
    Bug(
        "batch norms averaged over the last batches",
        "adaptation",
        "layer.momentum = None",
        "layer.momentum = 0.1",
        "test_adaptation.py::test_statistics_are_those_of_update_bn[glyphnet]",
        "the statistics are those of the last few batches, mixed with those that were imported",
    ),
    Bug(
        "batch norms adapted to test images",
        "adaptation",
        'images.train[np.argsort(images.ids[images.train], kind="stable")]',
        'np.argsort(images.ids, kind="stable")',
        "test_adaptation.py::test_poisoned_test_images_change_no_statistic",
        "the network has seen the images that it is tested on",
    ),
    Bug(
        "batches of one view each",
        "adaptation",
        "(number + turn) % len(views)",
        "0 * number + turn",
        "test_adaptation.py::test_a_batch_holds_different_images_in_all_views_evenly",
        "variances leave out how much the views differ",
    ),
    Bug(
        "statistics of other views read",
        "adaptation",
        '        "blurs": [made_as(view) for view in views],\n',
        "",
        "test_adaptation.py::test_statistics_of_anything_else_are_others",
        "the adapted baseline gets the statistics of the copies, or the other way round",
    ),
    Bug(
        "fingerprint without statistics",
        "backbones",
        "for key in sorted(state):",
        'for key in sorted(key for key in state if "running" not in key and "num" not in key):',
        "test_adaptation.py::test_nothing_but_statistics_changes",
        "an adapted network reads the features and the export of the one that was imported",
    ),
    # tuning
    Bug(
        "networks trained on their own fold",
        "tuning",
        "rest[0] != network - 1 if",
        "rest[0] != network if",
        "test_tuning.py::test_no_network_sees_the_images_of_its_own_fold",
        "heads are validated on what their networks were trained on",
    ),
    Bug(
        "batch norms that learn in eval mode",
        "tuning",
        "layer.train(mode)",
        "layer.train(False)",
        "test_tuning.py::test_networks_are_those_of_the_same_training_by_hand",
        "their statistics stay those that were imported",
    ),
    Bug(
        "snapshot with the last statistics",
        "tuning",
        "(*AFFINE, *STATISTICS)) for backbone in",
        "AFFINE) for backbone in",
        "test_tuning.py::test_networks_are_those_of_the_same_training_by_hand",
        "weights of one step are used with the statistics that were imported",
    ),
    Bug(
        "one network for all folds",
        "tuning",
        "applied(backbone, heads.state(head))",
        "applied(backbone, heads.state(0))",
        "test_tuning.py::test_predictions_of_each_head_come_from_its_own_network",
        "heads are tested on the network of another fold",
    ),
    # classifier, batches and mini-batches
    Bug(
        "folds' heads trained on their own fold",
        "classifier",
        "others = rest[0] != fold",
        "others = rest[0] == fold",
        "test_classifier.py::test_each_folds_head_learns_from_the_other_folds",
        "heads are validated on what they were trained on, and on nothing else",
    ),
    Bug(
        "macro accuracy that is micro, in Lightning",
        "classifier",
        'average="macro"',
        'average="micro"',
        "test_classifier.py::test_metrics_match_counts_by_hand",
        "the accuracy of frequent classes is called that of all",
    ),
    Bug(
        "probabilities over the batch",
        "classifier",
        "self(images).softmax(-1)",
        "self(images).softmax(0)",
        "test_classifier.py::test_predict_gives_probabilities",
        "a prediction depends on the other images of its batch",
    ),
    Bug(
        "the same draws in every epoch",
        "batches",
        "epoch=epoch, index=index",
        "epoch=0, index=index",
        "test_batches.py::test_draws_follow_from_seed_epoch_and_place",
        "random copies are as many as images, however long the training",
    ),
    Bug(
        "draws that depend on the worker",
        "batches",
        "epoch=epoch, index=index",
        'epoch=epoch, index=index + getattr(torch.utils.data.get_worker_info(), "id", 0)',
        "test_batches.py::test_workers_do_not_change_what_is_drawn",
        "the number of workers changes the result",
    ),
    Bug(
        "snapshot chosen on training rows",
        "minibatch",
        "mine = held.folds == fold",
        "mine = held.folds != fold",
        "test_minibatch.py::test_each_head_is_judged_by_the_rows_that_it_was_not_trained_on",
        "the most overfitted snapshot wins",
    ),
    Bug(
        "equal steps taken from equal epochs",
        "minibatch",
        '_folds_and_refit(snapshots.best["equal_steps"].heads)',
        '_folds_and_refit(snapshots.best["equal_epochs"].heads)',
        "test_minibatch.py::test_the_best_heads_of_each_budget_are_kept",
        "the augmented arm was trained longer than the baseline",
    ),
    # training
    Bug(
        "copies taken before the split",
        "training",
        "np.tile(training, copies),",
        "np.concatenate([training, *[training | validation] * (copies - 1)], 1),",
        "test_leaks.py::test_a_copy_stays_with_its_original",
        "heads are trained on copies of the images that they are validated on",
    ),
    Bug(
        "folds trained on all images",
        "preparation",
        "return ~validation, validation",
        "return np.ones_like(validation), validation",
        "test_leaks.py::test_no_font_is_both_fitted_and_validated_on",
        "the penalty is chosen on images that were trained on",
    ),
    Bug(
        "given validation split trained on",
        "preparation",
        "return is_training[None], ~is_training[None]",
        "return np.ones_like(is_training)[None], ~is_training[None]",
        "test_training.py::test_a_given_validation_split_is_validated_on_and_not_fitted",
        "the penalty is chosen on images that were trained on, and the head has seen them",
    ),
    # metrics
    Bug(
        "accuracy over the heads",
        "metrics",
        "np.mean(correct, axis=-1, dtype=np.float64)",
        "np.mean(correct, axis=0, dtype=np.float64)",
        "test_metrics.py::test_accuracy_reduces_the_images_and_keeps_the_heads",
        "the spread over heads is that over images",
    ),
    Bug(
        "macro accuracy that is micro",
        "metrics",
        "np.mean(hits[..., present] / images[present], axis=-1)",
        "np.asarray(hits.sum(axis=-1) / images.sum())",
        "test_metrics.py::test_macro_accuracy_by_hand",
        "the accuracy of frequent classes is called that of all",
    ),
    Bug(
        "top k of k + 1",
        "metrics",
        "accuracy(rank < k)",
        "accuracy(rank <= k)",
        "test_metrics.py::test_top_k_matches_sklearn",
        "top-5 accuracy is that of six guesses",
    ),
    Bug(
        "calibration bins not weighted",
        "metrics",
        "np.abs(gaps).sum(axis=-1) / confidence.shape[-1]",
        "np.abs(gaps / _sum_per_bin(np.ones_like(gaps, shape=index.shape), index, bins).clip(1)).mean(axis=-1)",
        "test_metrics.py::test_calibration_error_by_hand",
        "a bin of one image counts as much as one of a thousand",
    ),
    Bug(
        "area that ignores the strengths",
        "metrics",
        "np.trapezoid(accuracies, strengths, axis=-1) / (strengths[-1] - strengths[0])",
        "np.mean(accuracies, axis=-1)",
        "test_metrics.py::test_area_by_hand",
        "densely sampled strengths count more",
    ),
    Bug(
        "corruption error as a mean of ratios",
        "metrics",
        "errors.sum(axis=-1) / reference_errors.sum(axis=-1)",
        "np.mean(errors / reference_errors, axis=-1)",
        "test_metrics.py::test_corruption_error_is_a_ratio_of_sums",
        "strengths at which the reference barely errs decide",
    ),
    # inference
    Bug(
        "interval without the heads' variance",
        "inference",
        "variance = squares.unit + squares.head - squares.residual",
        "variance = squares.unit",
        "test_inference.py::test_heads_that_vary_add_to_the_error",
        "intervals hold for these heads and no others",
    ),
    Bug(
        "interval of 90 %",
        "inference",
        "special.stdtrit(freedom, 1 - LEVEL / 2)",
        "special.stdtrit(freedom, 1 - LEVEL)",
        "test_inference.py::test_heads_that_vary_less_than_the_residual_count_as_equal",
        "intervals miss the truth twice as often as they say",
    ),
    Bug(
        "groups of unequal size weighted alike",
        "inference",
        "inflation * (sums - sizes * mean) / sizes.mean()",
        "inflation * (sums / sizes - mean)",
        "test_inference.py::test_one_head_with_unequal_groups_has_cochrans_ratio_variance",
        "the mean over groups is another number than the difference in accuracy",
    ),
    Bug(
        "Holm without its order",
        "inference",
        "np.maximum.accumulate(factors * p_values[order])",
        "factors * p_values[order]",
        "test_inference.py::test_holm_by_hand",
        "a larger p value may come out as the more certain one",
    ),
    Bug(
        "verdict with the wrong sign",
        "inference",
        '"better" if estimate > 0 else "worse"',
        '"better" if estimate < 0 else "worse"',
        "test_inference.py::test_verdict",
        "what helps is called harmful",
    ),
    Bug(
        "McNemar one-sided",
        "inference",
        "2 * float(special.bdtr(",
        "float(special.bdtr(",
        "test_inference.py::test_mcnemar_by_hand",
        "p values are half as large as they are",
    ),
    Bug(
        "sign flips one-sided",
        "inference",
        "np.abs(reached) >= abs(sums.sum())",
        "reached >= abs(sums.sum())",
        "test_inference.py::test_sign_flip_does_not_overflow_small_integers",
        "p values are half as large as they are",
    ),
    # sweep
    Bug(
        "views in another order than their names",
        "sweep",
        "logits(view, block)))",
        "logits(views[-1 - views.index(view)], block)))",
        "test_sweep.py::test_probabilities_match_scipys_softmax_and_ranks_a_count",
        "the accuracy at one strength stands at another",
    ),
    Bug(
        "refitted head among the folds",
        "sweep",
        "enumerate(self.heads) if name != REFIT]",
        "enumerate(self.heads)]",
        "test_sweep.py::test_metrics_of_made_up_logits_match_scikit_learn",
        "the mean over folds holds a head that has seen all training images",
    ),
    Bug(
        "native strength inverted",
        "sweep",
        "view.strength * native_scale",
        "view.strength / native_scale",
        "test_sweep.py::test_metrics_of_made_up_logits_match_scikit_learn",
        "strengths in pixels of the files are wrong by the square of the scale",
    ),
    Bug(
        "ties against the label",
        "sweep",
        "(probabilities > of_label)",
        "(probabilities >= of_label)",
        "test_sweep.py::test_ties_count_for_the_label_in_its_rank_and_for_the_first_class_in_the_prediction",
        "every rank is one too large",
    ),
    Bug(
        "equal epochs read as equal steps",
        "sweep",
        "longer if longer and equal_epochs else",
        "longer if longer else",
        "test_sweep.py::test_heads_of_a_longer_training_are_read_where_they_are_asked_for",
        "tables show the arm that was trained longer",
    ),
    # comparison
    Bug(
        "Holm forgotten",
        "differences",
        "inference.holm(np.array(p_values))",
        "np.array(p_values)",
        "test_comparison.py::test_holm_adjusts_the_heavy_views_alone",
        "one of many heavy views is called better by chance",
    ),
    Bug(
        "reference minus arm",
        "comparison",
        "correct[name].astype(np.float64) - reference, read.groups",
        "reference - correct[name].astype(np.float64), read.groups",
        "test_comparison.py::test_intervals_and_p_values_by_hand",
        "gains are losses",
    ),
    Bug(
        "groups ignored",
        "differences",
        "inference.crossed_difference(values, groups)",
        "inference.crossed_difference(values)",
        "test_comparison.py::test_groups_are_the_unit",
        "intervals are too narrow for images that belong together",
    ),
    Bug(
        "heavy mean over all views",
        "comparison",
        "        if heavy:\n            heavy_correct",
        "        if read:\n            heavy_correct",
        "test_comparison.py::test_further_metrics_by_hand",
        "slight blurs dilute the result under heavy ones",
    ),
    Bug(
        "slight mean over heavy views",
        "comparison",
        '"slight_mean": _mean(arms, slight_correct,',
        '"slight_mean": _mean(arms, heavy_correct,',
        "test_statistics.py::test_every_number_of_made_up_comparisons_too",
        "the gain under heavy blur is told as that under slight one",
    ),
    Bug(
        "views between slight and heavy are slight",
        "kernels",
        "0 < spread(view, side) <= ROOM * widest",
        "0 < spread(view, side) <= HEAVY * widest",
        "test_kernels.py::test_slight_is_as_wide_as_the_strongest_copy_at_most",
        "the mean of slight blur counts views that no copy is as wide as",
    ),
    Bug(
        "photographs' verdicts not adjusted",
        "comparison",
        '    _adjust([row["against_reference"] for row in rows])\n',
        "",
        "test_real.py::test_every_number_of_them_follows_from_the_predictions",
        "of many sets of photographs one is called better by chance",
    ),
    Bug(
        "classes by the order of their images",
        "breakdown",
        'order = np.argsort(counts.labels, kind="stable")',
        "order = np.arange(len(counts.labels))",
        "test_breakdown.py::test_gains_and_intervals_are_those_of_the_class_alone",
        "the losses of a class are those of other classes' images",
    ),
    Bug(
        "classes' verdicts not adjusted",
        "breakdown",
        "        adjust(every)\n",
        "",
        "test_breakdown.py::test_verdicts_are_adjusted_over_the_classes_of_one_arm",
        "of a thousand classes fifty are called better or worse by chance",
    ),
    Bug(
        "one head is a majority",
        "breakdown",
        "2 * self.times_right(name) > self.seen",
        "2 * self.times_right(name) >= self.seen",
        "test_breakdown.py::test_most_heads_in_most_views_decide",
        "images on which heads disagree evenly count as right",
    ),
    Bug(
        "names beside other images",
        "breakdown",
        "files, images = roster.rows(here)",
        "files, images = roster.rows(np.sort(here))",
        "test_breakdown.py::test_every_row_of_images_follows_from_the_predictions",
        "the photographs that are named are not the ones that changed sides",
    ),
    Bug(
        "comparison of older predictions shown again",
        "comparison",
        'comparison["inputs"] == inputs_of(arms)',
        'comparison["inputs"].keys() == inputs_of(arms).keys()',
        "test_comparison.py::test_a_comparison_of_other_predictions_is_made_again",
        "a run that was trained anew is shown with its old numbers",
    ),
    # report and tensorboard
    Bug(
        "p values shown without their adjustment",
        "report",
        'p = other["p"] if other["p_holm"] is None else other["p_holm"]',
        'p = other["p"]',
        "test_report.py::test_an_adjusted_p_value_stands_beside_its_verdict",
        "p values contradict the verdict beside them",
    ),
    Bug(
        "a step a pixel",
        "scalars",
        "STEPS_PER_PIXEL = 100",
        "STEPS_PER_PIXEL = 1",
        "test_tensorboard.py::test_writing_again_replaces_the_event_file",
        "blurs of .5 and 1.5 px stand at 0 and 2",
    ),
    # ImageNet-C, evidence and recommendations
    Bug(
        "glass swaps",
        "warps",
        "inside[neighbour] & (neighbour > places)",
        "inside[neighbour] & (neighbour < places)",
        "test_imagenet_c.py::test_glass_displaces_as_the_published_loop_does",
        "pixels behind glass are visited in the other order",
    ),
    Bug(
        "draws follow no image",
        "warps",
        "np.ascontiguousarray(image).tobytes()",
        "b''",
        "test_imagenet_c.py::test_angles_are_spread_evenly",
        "every image is moved in one direction",
    ),
    Bug(
        "draws follow no seed",
        "warps",
        "repr((view.seed, view.family, view.strength))",
        "repr((view.family, view.strength))",
        "test_imagenet_c.py::test_a_view_depends_on_image_blur_and_seed_alone",
        "data.view_seed does nothing",
    ),
    Bug(
        "defocus as bright as published",
        "kernels",
        "from_weights(imagenet_c.disk(*values))",
        "__import__('blurtrain.convolution').convolution.Planar(imagenet_c.disk(*values))",
        "test_imagenet_c.py::test_published_disks_sum_to_what_is_known_and_ours_to_one",
        "severity 4 brightens",
    ),
    Bug(
        "one table for all sizes",
        "imagenet_c",
        "min(TABLES, key=lambda size: abs(math.log(side / size)))",
        "224",
        "test_imagenet_c.py::test_nearest_table_is_taken",
        "small images get scaled parameters of large ones",
    ),
    Bug(
        "no adjustment over the table",
        "controls",
        "        adjust(cells)",
        "        pass",
        "test_evidence.py::test_p_values_are_adjusted_over_the_table",
        "one in twenty cells is called better by chance",
    ),
    Bug(
        "heads of another arm",
        "controls",
        "repr((views, arm.head",
        "repr((arm.head",
        "test_evidence.py::test_numbers_agree_with_runs_of_the_same_arms",
        "every arm is the baseline",
    ),
    Bug(
        "heads of another camera",
        "controls",
        "[features.made_as(view) for view in arm.train_views]",
        "arm.train_views",
        "test_evidence.py::test_heads_are_fitted_again_where_a_measured_blur_has_changed",
        "heads of the file that was there before",
    ),
    Bug(
        "images judged by heads that were fitted on them",
        "choosing",
        "judge = validation.argmax(0)",
        "judge = validation.argmin(0)",
        "test_recommend.py::test_every_image_is_judged_by_the_head_that_was_not_fitted_on_it",
        "copies are chosen by what the heads know by heart",
    ),
    Bug(
        "all images choose",
        "choosing",
        "float(one.heavy[chooses].mean())",
        "float(one.heavy.mean())",
        "test_recommend.py::test_best_needs_a_gain_and_no_clean_cost",
        "the expected gain is that of the images that chose",
    ),
    Bug(
        "blurs that stay when the input grows",
        "sensitivity",
        "wanted = strength * scale",
        "wanted = strength",
        "test_evidence.py::test_blurs_grow_with_the_input",
        "a larger input is compared at a weaker blur",
    ),
    Bug(
        "photographs in the mean over blurs",
        "scalars",
        "{row.view: row for row in rows if row.strength is not None}",
        "{row.view: row for row in rows}",
        "test_real.py::test_tensorboard_has_a_tag_for_each_set",
        "the mean over the sweep depends on photographs that are no part of it",
    ),
    Bug(
        "strongest blur by its number",
        "training",
        "key=lambda view: standard_deviation(view, side)",
        "key=lambda view: view.strength",
        "test_tensorboard.py::test_strongest_blur_is_the_widest_kernel_and_not_the_greatest_number",
        "a severity of 5 is called wider than a gaussian of 3 px",
    ),
    # config and runs
    Bug(
        "copies instead of the clean images",
        "config",
        "else (CLEAN, *copies)",
        "else copies or (CLEAN,)",
        "test_config.py::test_train_views_are_clean_and_the_copies_in_their_order",
        "the augmented arm never sees a sharp image",
    ),
    Bug(
        "runs told apart without their copies",
        "config",
        '_NOT_IDENTITY = ("name", "runs"',
        '_NOT_IDENTITY = ("name", "copies", "runs"',
        "test_config.py::test_identity_leaves_out_names_places_and_batch_size",
        "a run with other copies is shown as this one",
    ),
    Bug(
        "inputs of the arms not compared",
        "runs",
        "if mine.get(name) != inputs[name]]",
        "if name not in mine]",
        "test_comparison.py::test_runs_that_were_made_of_other_inputs_are_refused",
        "arms of other images, folds or backbones are compared",
    ),
    Bug(
        "predictions beside other photographs",
        "training",
        "loaded.extra_tests[view.name][block]",
        "loaded.extra_tests[view.name][::-1][block]",
        "test_real.py::test_predictions_are_those_of_the_photographs",
        "every photograph has the prediction of another one",
    ),
    Bug(
        "inputs without the labels",
        "preparation",
        "            loaded.labels[positions].tobytes(),\n",
        "",
        "test_training.py::test_another_image_or_label_shows",
        "arms that were trained on other labels are compared",
    ),
    Bug(
        "files of a run not compared with their checksums",
        "runs",
        'file_sha256(path) == result.get("files", {}).get(name)',
        'name in result.get("files", {})',
        "test_runs.py::test_a_flipped_bit_of_any_file_is_noticed",
        "predictions and heads that were changed are compared as if they were the run's",
    ),
    Bug(
        "fingerprint of a run not compared",
        "runs",
        "if fingerprint != expected:",
        "if len(fingerprint) != len(expected):",
        "test_runs.py::test_another_backbone_is_refused",
        "a head is put on a backbone that it was not trained on",
    ),
    # previews, the embedded network and its pre-training
    Bug(
        "native strength inverted, in previews",
        "sheets",
        "{view.strength * scale:.1f}",
        "{view.strength / scale:.1f}",
        "test_previews.py::test_native_strength",
        "strengths in pixels of the files are wrong by the square of the scale",
    ),
    Bug(
        "resized after the blur, in previews",
        "previews",
        "pictures = tuple(_displayed(blur_pixels(*copies.seen(pixels, names, view))[0]) for view in views)",
        "native_ = np.asarray(image).transpose(2, 0, 1)[None].copy()\n"
        "    seen = (255 * blur_pixels(native_, view)[0].transpose(1, 2, 0) for view in views)\n"
        "    files = (Image.fromarray(one.round().astype(np.uint8)) for one in seen)\n"
        "    pictures = tuple(_displayed(geometry.apply(one) / np.float32(255)) for one in files)",
        "test_previews.py::test_cells_are_what_the_network_sees",
        "the picture shows weaker blurs than the network sees",
    ),
    Bug(
        "test images shown",
        "previews",
        'if item.split in ("train", None)',
        'if item.split in ("train", "test", None)',
        "test_previews.py::test_classes_take_turns_and_only_training_images_are_shown",
        "blurs are chosen by looking at the test split",
    ),
    Bug(
        "shortcut left out",
        "glyphnet",
        "F.relu(y + self.shortcut(x))",
        "F.relu(y)",
        "test_pretrain.py::test_shipped_figure_is_reproduced",
        "the embedded network is not the one that was pre-trained",
    ),
    Bug(
        "letters not divided by their deviation",
        "pretrain",
        "return (pixels - mean) / std",
        "return pixels - mean",
        "test_pretrain.py::test_normalise_matches_its_formula",
        "the embedded network is trained on other inputs than it gets",
    ),
    # the inequality
    Bug(
        "torus as small as the map",
        "operators",
        "return 2 * self.height + self.reach[0], 2 * self.width + self.reach[1]",
        "return self.height, self.width",
        "test_operators.py::test_coarse_grid_is_no_upper_bound",
        "the norm of a layer with zeros is too low, and errors exceed it",
    ),
    Bug(
        "torus for the layer alone",
        "operators",
        "return 2 * self.height + self.reach[0], 2 * self.width + self.reach[1]",
        "return self.height + self.reach[0], self.width + self.reach[1]",
        "test_bounds.py::test_blur_that_is_not_cropped_needs_a_torus_for_all_of_it",
        "what a blur spreads wraps around, and errors exceed the joint bound",
    ),
    Bug(
        "padding forgotten in the norm",
        "operators",
        "self.young) * self.padding_norm",
        "self.young)",
        "test_operators.py::test_norm_is_at_least_that_of_the_matrix",
        "layers that reflect amplify more than their norm",
    ),
    Bug(
        "reflected pixels not counted",
        "operators",
        '        if self.mode == "zeros":\n            return 1',
        '        if self.mode in ("zeros", "reflect"):\n            return 1',
        "test_operators.py::test_padding_norm_is_that_of_the_matrix",
        "layers that reflect amplify more than their norm",
    ),
    Bug(
        "edge pixel reflected, too",
        "operators",
        "sources = np.minimum(np.abs(places), np.abs(2 * (n - 1) - places))",
        "sources = np.minimum(np.abs(places), np.abs(2 * n - 1 - places)) % n",
        "test_operators.py::test_padding_norm_is_that_of_the_matrix",
        "the padding that is bounded is not torch's",
    ),
    Bug(
        "circular margins without the kernel",
        "operators",
        "(n + before + after - reach) / n",
        "(n + before + after) / n",
        "test_operators.py::test_circular_padding_counts_repeated_outputs",
        "the bounds of every circular layer are twice too large",
    ),
    Bug(
        "Young's sum over all groups",
        "operators",
        "size.reshape(self.groups, -1, size.shape[1]).sum(1).max()",
        "size.sum(0).max()",
        "test_operators.py::test_young_is_schurs_test_by_hand",
        "a depthwise layer seems to amplify as if it mixed its channels",
    ),
    Bug(
        "Young's larger sum, not the geometric mean",
        "operators",
        "math.sqrt(into * out_of)",
        "max(into, out_of)",
        "test_operators.py::test_young_is_schurs_test_by_hand",
        "the bound is looser than theory has it",
    ),
    Bug(
        "dilation ignored in the waves",
        "operators",
        "torch.outer(torch.arange(count), dilation * torch.arange(taps))",
        "torch.outer(torch.arange(count), torch.arange(taps))",
        "test_operators.py::test_gains_are_upper_bounds_at_every_frequency",
        "dilated layers get the gains of others, frequency by frequency",
    ),
    Bug(
        "mean over groups",
        "operators",
        "_largest_singular_values(symbols).amax(2)",
        "_largest_singular_values(symbols).mean(2)",
        "test_operators.py::test_gains_are_upper_bounds_at_every_frequency",
        "the strongest group exceeds the norm",
    ),
    Bug(
        "Nyquist column left out of the norm",
        "operators",
        "min(float(gains.max())",
        "min(float(gains[:, : max(1, gains.shape[1] - 1)].max())",
        "test_bounds.py::test_bounds_are_attained",
        "layers that sharpen amplify more than their norm",
    ),
    Bug(
        "square root of one factor alone",
        "operators",
        "(factor.double() * bound + error).sqrt()",
        "factor.double().sqrt() * bound + error",
        "test_operators.py::test_gains_are_upper_bounds_at_every_frequency",
        "the norm is too low where singular values differ",
    ),
    Bug(
        "first Gram matrix's square root missing",
        "operators",
        "    return scale * bound",
        "    return scale * (bound**2 if shrunk else bound)",
        "test_operators.py::test_equal_singular_values_are_the_loosest",
        "the norm of every layer of several channels is too low",
    ),
    Bug(
        "one Gram step too few",
        "operators",
        "math.log(LOOSE))) - 1)",
        "math.log(LOOSE))) - 2)",
        "test_operators.py::test_equal_singular_values_are_the_loosest",
        "norms are overestimated by twice what is promised",
    ),
    Bug(
        "content without dilation",
        "operators",
        "self.weights.shape, self.dilation, self.groups",
        "self.weights.shape, self.groups",
        "test_operators.py::test_content_is_all_that_gains_depend_on",
        "a layer is given the stored gains of another one",
    ),
    Bug(
        "too few frequencies of the blur",
        "bounds",
        "return max(2 * height, height + rows - 1), max(2 * width, width + columns - 1)",
        "return height, width",
        "test_bounds.py::test_frequencies_of_the_map_alone_are_too_few",
        "the kernel's factor is too low on small maps",
    ),
    Bug(
        "cosines of whole periods alone",
        "bounds",
        "return 2 * height, 2 * width",
        "return height, width",
        "test_bounds.py::test_even_kernel_needs_no_factor_at_a_symmetric_border",
        "the kernel's factor is too low at a symmetric border",
    ),
    Bug(
        "factor of the border dropped",
        "bounds",
        "repeated = activation * extension_norm(layer.height, layer.width, kernel, extension)",
        "repeated = activation",
        "test_bounds.py::test_gaussian_needs_a_factor_at_a_reflecting_border",
        "a blur that reflects moves an image further than its bound",
    ),
    Bug(
        "symmetric border with any kernel",
        "bounds",
        '    if extension == "symmetric" and kernel.is_even:\n        return 1.0',
        '    if extension == "symmetric":\n        return 1.0',
        "test_bounds.py::test_diagonal_line_needs_a_factor_at_a_symmetric_border",
        "diagonal motion moves an image further than its bound",
    ),
    Bug(
        "factor of the larger axis alone",
        "bounds",
        "most *= int(np.bincount(sources(n, taps // 2, extension)).max())",
        "most = max(most, int(np.bincount(sources(n, taps // 2, extension)).max()))",
        "test_bounds.py::test_factor_of_a_border_is_the_norm_of_the_extension",
        "a corner is repeated more often than its bound says",
    ),
    Bug(
        "joint for a cropped blur",
        "bounds",
        '(("zeros", "uncropped"), ("circular", "circular"))',
        '(("zeros", "uncropped"), ("zeros", "zero"), ("circular", "circular"))',
        "test_bounds.py::test_cropped_blur_with_zeros_does_not_commute",
        "light that left the map is missing in the bound",
    ),
    Bug(
        "triangle without the image itself",
        "bounds",
        "(1 + kernel.l1)",
        "kernel.l1",
        "test_bounds.py::test_bounds_are_attained",
        "errors of up to twice the bound",
    ),
    Bug(
        "Nyquist column left out of the product",
        "bounds",
        "(share * np.minimum(gains, layer.young)).max()",
        "(share * np.minimum(gains, layer.young))[:, :-1].max()",
        "test_bounds.py::test_bounds_are_attained",
        "layers that sharpen exceed the joint bound",
    ),
    Bug(
        "padding forgotten by Young",
        "bounds",
        "layer.young * layer.padding_norm * kernel.distance",
        "layer.young * kernel.distance",
        "test_bounds.py::test_bounds_of_drawn_cases_are_ordered",
        "layers that reflect exceed Young's bound, and it is below l1",
    ),
    Bug(
        "activation left out of joint and output",
        "bounds",
        "scale = layer.lipschitz * layer.padding_norm",
        "scale = layer.padding_norm",
        "test_bounds.py::test_constants_of_activations_are_attained",
        "hardswish exceeds the joint bound",
    ),
    Bug(
        "kernel wider than the map",
        "bounds",
        "    return wider(kernel, layer)\n",
        '    return ""\n',
        "test_bounds.py::test_kernel_must_fit_the_map_if_the_blur_is_not_cropped",
        "what a blur spreads wraps around and meets itself",
    ),
    Bug(
        "larger map of a layer that reflects",
        "bounds",
        '    if layer.mode != "zeros":\n        return f"a layer',
        '    if layer.mode == "circular":\n        return f"a layer',
        "test_bounds.py::test_layer_that_repeats_pixels_violates_every_norm_without_its_padding",
        "the norm of one map is applied to another",
    ),
    Bug(
        "wide kernels that wrap around",
        "bounds",
        "return max(2 * height, height + rows - 1), max(2 * width, width + columns - 1)",
        "return 2 * height, 2 * width",
        "test_bounds.py::test_kernel_wider_than_the_map_does_not_wrap_around_at_other_borders",
        "a blur that leaves nothing of a small map counts as none",
    ),
    Bug(
        "circular blur on a larger torus",
        "bounds",
        '    if extension == "circular":\n        return layer.height, layer.width\n',
        "",
        "test_bounds.py::test_circular_blur_is_bounded_on_its_own_torus",
        "the frequencies of the blur are not those of its torus",
    ),
    Bug(
        "joint of overestimated gains",
        "bounds",
        "np.minimum(gains, layer.young)",
        "gains",
        "test_bounds.py::test_joint_is_never_above_spectral_where_young_is_the_norm",
        "the finer bound is above the coarser one",
    ),
    Bug(
        "rounding of cancelling taps",
        "operators",
        "found += 4 * rows * columns",
        "found += 0 * rows * columns",
        "test_operators.py::test_rounding_of_symbols_is_added_where_taps_cancel",
        "gains of nearly nothing are no upper bounds",
    ),
    # the layers of a network
    Bug(
        "content without the map's size",
        "operators",
        "self.dilation, self.groups, self.torus, VERSION",
        "self.dilation, self.groups, VERSION",
        "test_operators.py::test_content_is_all_that_gains_depend_on",
        "the norms of a layer on a small map are taken for those on a large one",
    ),
    Bug(
        "last output of an operation",
        "graph",
        "return tensors_in(self.function(**call))[0]",
        "return tensors_in(self.function(**call))[-1]",
        "test_tracing.py::test_nodes_of_a_network_by_hand_give_what_was_seen",
        "activations and pools that give places, too, are replaced by them",
    ),
    Bug(
        "train mode below the network's root",
        "tracing",
        "for module, path in names.items() if module.training)",
        "for module, path in names.items() if module.training and not path)",
        "test_tracing.py::test_train_mode_is_refused_by_name",
        "a batch norm mixes clean and blurred images",
    ),
    Bug(
        "standardised weights taken as they are",
        "tracing",
        "return kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward",
        "return issubclass(kind, nn.Conv2d)",
        "test_tracing.py::test_only_what_convolves_with_its_own_weights_is_a_convolution",
        "bounds are those of weights that the network does not use",
    ),
    Bug(
        "write through a view overlooked",
        "tracing",
        "if source is not None and source[2] != self._changes[memory]:",
        "if source is not None and source[2] > self._changes[memory]:",
        "test_tracing.py::test_a_tensor_changed_through_a_view_is_not_what_it_was",
        "a product of constants leaves out what was done to a part of a map",
    ),
    Bug(
        "images changed by the first pass",
        "tracing",
        "self.images = images.clone()",
        "self.images = images",
        "test_tracing.py::test_tracing_leaves_no_trace",
        "a network that works in place sees other images the second time",
    ),
    Bug(
        "inputs shown after they were overwritten",
        "tracing",
        "recorder = _Recorder(images, seen, at)",
        "recorder = _Recorder(images, seen)",
        "test_tracing.py::test_nodes_of_a_network_by_hand_give_what_was_seen",
        "a convolution is measured on what came after it",
    ),
    Bug(
        "batch norm without epsilon",
        "lipschitz",
        'scale: Tensor = (variance.detach().double() + norm.arguments["eps"]).rsqrt()',
        "scale: Tensor = variance.detach().double().rsqrt()",
        "test_stages.py::test_the_constant_of_a_linear_map_is_its_norm",
        "channels that hardly vary have much too large norms",
    ),
    Bug(
        "batch norm's own statistics not looked for",
        "lipschitz",
        ' and not norm.arguments.get("training", False)',
        "",
        "test_stages.py::test_what_has_no_constant_says_why",
        "a norm is stated of what depends on the batch",
    ),
    Bug(
        "factor of a sum left out",
        "lipschitz",
        'max(1.0, abs(float(node.arguments.get("alpha", 1))))',
        "1.0",
        "test_stages.py::test_no_pair_of_inputs_exceeds_a_constant",
        "a weighted skip has the constant of a plain one",
    ),
    Bug(
        "max-pooling with constant 1",
        "lipschitz",
        "return math.sqrt(math.prod(_multiplicity(np.concatenate(_windows(node, axis))) for axis in (-2, -1)))",
        "return 1.0",
        "test_stages.py::test_max_pooling_attains_its_constant",
        "overlapping windows move farther than their bound",
    ),
    Bug(
        "repetition without its root",
        "lipschitz",
        "return math.sqrt(max(math.prod(node.shape) / math.prod(shape) for shape in node.input_shapes))",
        "return max(math.prod(node.shape) / math.prod(shape) for shape in node.input_shapes)",
        "test_stages.py::test_the_constant_of_a_linear_map_is_its_norm",
        "products of constants are too large where maps are repeated",
    ),
    Bug(
        "grouped convolutions left out",
        "stages",
        'for node in trace.nodes if "conv" in node.op]',
        'for node in trace.nodes if "conv" in node.op and getattr(modules[node.path], "groups", 1) == 1]',
        "test_layers.py::test_every_convolution_of_a_branched_network_is_bounded_and_none_violated",
        "depthwise layers are missing from the table",
    ),
    Bug(
        "second use of a convolution left out",
        "stages",
        'for node in trace.nodes if "conv" in node.op]',
        'for node in trace.nodes if "conv" in node.op and not node.use]',
        "test_stages.py::test_only_what_alone_sees_a_convolution_joins_its_stage",
        "shared layers are measured once",
    ),
    Bug(
        "batch norm folded into the bias alone",
        "stages",
        "            weights = weights * scale.view(-1, 1, 1, 1)\n",
        "",
        "test_stages.py::test_only_what_alone_sees_a_convolution_joins_its_stage",
        "norms and bounds are those of another layer",
    ),
    Bug(
        "batch norm folded into the weights alone",
        "stages",
        'bias = (bias - self.norm.arguments["running_mean"].detach().double()) * scale',
        "bias = bias * scale",
        "test_stages.py::test_only_what_alone_sees_a_convolution_joins_its_stage",
        "activations are met at another place, so measured errors are others",
    ),
    Bug(
        "batch norm counted twice",
        "stages",
        "if node.index not in folded:",
        "if node.index not in ():",
        "test_stages.py::test_constants_multiply_along_and_add_across",
        "products of constants have each batch norm's scale squared",
    ),
    Bug(
        "activation with two consumers before it",
        "stages",
        "if len(consumers) == 1 and trace.output != node.index else None",
        "if consumers and trace.output != node.index else None",
        "test_stages.py::test_only_what_alone_sees_a_convolution_joins_its_stage",
        "the error of what others see, too, is that after one of them",
    ),
    Bug(
        "odd pixel of same padding before",
        "stages",
        "return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2",
        "return rows - rows // 2, rows // 2, columns - columns // 2, columns // 2",
        "test_stages.py::test_padding_of_every_kind_is_told_in_pixels",
        "even kernels are measured one pixel off",
    ),
    Bug(
        "larger path of a sum alone",
        "stages",
        "if node.op in JOINS else sum(before))",
        "if node.op in JOINS else max(before))",
        "test_stages.py::test_constants_multiply_along_and_add_across",
        "products of constants across skips are no bounds",
    ),
    Bug(
        "product across a sum",
        "stages",
        "if node.op in JOINS else sum(before))",
        "if node.op in JOINS else math.prod(before))",
        "test_stages.py::test_constants_multiply_along_and_add_across",
        "products of constants across skips are not those of the network",
    ),
    Bug(
        "concatenation adds constants",
        "stages",
        "math.hypot(*before) if node.op in JOINS else sum(before)",
        "sum(before)",
        "test_stages.py::test_constants_side_by_side_are_roots_of_squares",
        "products of constants grow too fast in dense networks",
    ),
    Bug(
        "bias in the linear part",
        "commuting",
        "norms(self._maps), norms(full)",
        "norms(self._maps), norms(full + self._bias[:, None, None])",
        "test_commuting.py::test_what_is_measured_is_what_a_direct_computation_gives",
        "the output bound is too loose or violated by what moves nothing",
    ),
    Bug(
        "stride in the linear part",
        "commuting",
        "norms(self._maps), norms(full)",
        "norms(self._maps), norms(full[..., :: self._layer.stride[0], :: self._layer.stride[1]])",
        "test_commuting.py::test_what_is_measured_is_what_a_direct_computation_gives",
        "the output bound is stated as if stride and blur commuted",
    ),
    Bug(
        "torus walked round more than once",
        "commuting",
        "_wrapped(self._maps, (0, columns, 0, rows))",
        "_wrapped(self._maps, (columns, columns, rows, rows))",
        "test_commuting.py::test_what_is_measured_is_what_a_direct_computation_gives",
        "the output bound of circular layers is too loose",
    ),
    Bug(
        "blurred map cropped",
        "commuting",
        "math.ceil((size // 2 + max(0, reach - min(self._layer.padding[2 * axis : 2 * axis + 2]))) / stride)",
        "math.ceil(max(size // 2, reach - min(self._layer.padding[2 * axis : 2 * axis + 2])) / stride)",
        "test_commuting.py::test_what_is_measured_is_what_a_direct_computation_gives",
        "errors at the edge are left out, and bounds look loose",
    ),
    Bug(
        "activation of nothing taken for nothing",
        "commuting",
        "self._silent = self._activate(self._bias.view(1, -1, 1, 1).clone())",
        "self._silent = torch.zeros_like(self._bias).view(1, -1, 1, 1)",
        "test_commuting.py::test_what_is_measured_is_what_a_direct_computation_gives",
        "the margin counts as moved",
    ),
    Bug(
        "stride's part with the padding's",
        "commuting",
        "zip(PARTS, (padding, stride - padding, total - stride), strict=True)",
        "zip(PARTS, (padding, stride, total - stride - padding), strict=True)",
        "test_commuting.py::test_parts_add_up_to_the_change_after_pooling",
        "what the padding does is shown as the stride's",
    ),
    Bug(
        "error relative to the blurred output",
        "propagation",
        "sizes = norms(stacked[0])",
        "sizes = norms(stacked[1])",
        "test_layers.py::test_errors_are_those_of_the_outputs_seen_by_hooks",
        "heavy blur looks worse than it is",
    ),
    Bug(
        "features' error relative to the blurred ones",
        "propagation",
        "ratio(change, np.linalg.norm(clean, axis=1))",
        "ratio(change, np.linalg.norm(others, axis=2))",
        "test_layers.py::test_errors_are_those_of_the_outputs_seen_by_hooks",
        "heavy blur looks worse than it is",
    ),
    Bug(
        "own and circular border swapped",
        "propagation",
        "views = [CLEAN, *self._views, *map(circular, self._views)]",
        "views = [CLEAN, *map(circular, self._views), *self._views]",
        "test_layers.py::test_errors_are_those_of_the_outputs_seen_by_hooks",
        "each border's error is shown as the other's",
    ),
    Bug(
        "distance of images on a torus",
        "propagation",
        "_distances(stacked)[: len(self._views)]",
        "_distances(stacked)[len(self._views) :]",
        "test_layers.py::test_what_is_described_is_what_was_measured",
        "products of constants are those of another change",
    ),
    Bug(
        "layer blurred on blurred maps",
        "propagation",
        "inputs[0][: place.stop - place.start]",
        "inputs[0][place.start - place.stop :]",
        "test_layers.py::test_what_is_measured_at_a_layer_is_what_its_clean_input_gives_alone",
        "local errors are those of maps that were blurred before",
    ),
    Bug(
        "features as the cores end",
        "propagation",
        "for first in sorted(self._features)",
        "for first in self._features",
        "test_layers.py::test_chunks_may_come_in_any_order",
        "features stand beside the labels of other images",
    ),
    Bug(
        "chunks one image off",
        "propagation",
        "place = slice(first, first + len(pixels))",
        "place = slice(max(0, first - 1), max(0, first - 1) + len(pixels))",
        "test_layers.py::test_errors_are_those_of_the_outputs_seen_by_hooks",
        "images overwrite others' errors",
    ),
    Bug(
        "ties count as won",
        "decision",
        "(ones[:, None] > others).mean() + 0.5 * (ones[:, None] == others).mean()",
        "(ones[:, None] >= others).mean()",
        "test_decision.py::test_area_is_that_of_scikit_learn",
        "errors of 0 seem to tell turned answers",
    ),
    Bug(
        "interval of one pair",
        "decision",
        "* spread / (ones * others)",
        "* spread / (ones + others)",
        "test_decision.py::test_interval_at_the_ends_reaches_inwards",
        "intervals of areas are much too wide",
    ),
    Bug(
        "wrong answers counted as turned",
        "decision",
        '"flipped": int(answers.flipped.sum()),',
        '"flipped": int((answers.flipped if labels is None else answers.blurred.argmax(1) != labels).sum()),',
        "test_decision.py::test_flips_accuracies_and_margins_are_counted",
        "what was wrong before seems to be turned by blur",
    ),
    Bug(
        "row space not centred",
        "decision",
        "(self.weights - self.weights.mean(0)).T",
        "self.weights.T",
        "test_decision.py::test_a_head_is_blind_to_what_moves_all_logits_alike",
        "heads seem to see what changes no answer",
    ),
    Bug(
        "head's ratio without its norm",
        "decision",
        "ratio(change, head.norm * size)",
        "ratio(change, size)",
        "test_decision.py::test_a_change_along_the_largest_singular_vector_attains_the_heads_bound",
        "heads seem to use more than all of their norm",
    ),
    Bug(
        "Frobenius norm of a head",
        "decision",
        "np.linalg.norm(self.weights, 2)",
        "np.linalg.norm(self.weights)",
        "test_decision.py::test_a_change_along_the_largest_singular_vector_attains_the_heads_bound",
        "heads seem to use little of their norm",
    ),
    Bug(
        "margin to the worst class",
        "decision",
        "margin = best[:, -1] - best[:, -2]",
        "margin = best[:, -1] - best[:, 0]",
        "test_decision.py::test_flips_accuracies_and_margins_are_counted",
        "answers seem to be safer than they are",
    ),
    Bug(
        "first images whatever their class",
        "anatomy",
        'return order[np.argsort(turns, kind="stable")][:count]',
        "return order[:count]",
        "test_layers.py::test_images_are_taken_evenly_of_all_classes",
        "classes count as often as they happen to come",
    ),
    Bug(
        "images in the order of their files",
        "anatomy",
        'loaded.test[np.argsort(loaded.ids[loaded.test], kind="stable")]',
        "loaded.test",
        "test_layers.py::test_the_same_images_are_taken_however_their_files_are_ordered",
        "renamed files give other numbers",
    ),
    Bug(
        "activation's constant left out of the bounds",
        "anatomy",
        "convolution.padding, module.padding_mode, convolution.lipschitz",
        "convolution.padding, module.padding_mode",
        "test_layers.py::test_every_convolution_of_a_branched_network_is_bounded_and_none_violated",
        "layers with SiLU have bounds that are a tenth too low",
    ),
    Bug(
        "norm without its padding",
        "anatomy",
        "norms[depth] = one.layer.norm(known)",
        "norms[depth] = float(known.max())",
        "test_layers.py::test_stages_have_the_norms_of_their_own_layers",
        "layers that reflect are stated to amplify less than they do",
    ),
    Bug(
        "convolution's norms by place",
        "anatomy",
        "of_nodes = {planned.convolutions[depth].node: norm for depth, norm in norms.items()}",
        "of_nodes = {planned.convolutions[depth].node: norm for depth, norm in enumerate(norms.values())}",
        "test_layers.py::test_stages_have_the_norms_of_their_own_layers",
        "after a layer without a bound the constants are those of others",
    ),
    Bug(
        "violations beyond 1 % alone",
        "dissection",
        "VIOLATED = 1 + 1e-5",
        "VIOLATED = 1 + 1e-2",
        "test_layers.py::test_a_slight_violation_is_one",
        "bounds that do not hold seem to",
    ),
    Bug(
        "constants of 1 counted below",
        "dissection",
        "(known < 1).sum()",
        "(known <= 1).sum()",
        "test_layers.py::test_constants_below_1_are_counted_among_those_that_there_are",
        "layers that promise nothing seem to promise something",
    ),
    Bug(
        "layers without a constant counted in all",
        "dissection",
        '"of": len(known)',
        '"of": len(bounds)',
        "test_layers.py::test_constants_below_1_are_counted_among_those_that_there_are",
        "bounds seem to be below 1 at a smaller share of layers",
    ),
    Bug(
        "areas of turned answers on a torus",
        "dissection",
        "in features[1 : 1 + len(subject.views)]",
        "in features[1 + len(subject.views) :]",
        "test_layers.py::test_what_is_described_is_what_was_measured",
        "areas are those of other turned answers",
    ),
    Bug(
        "decision of the blur before",
        "dissection",
        "for place in (0, 1 + blur))",
        "for place in (0, blur))",
        "test_layers.py::test_what_is_described_is_what_was_measured",
        "heavy blur seems to turn as little as slight blur does",
    ),
    Bug(
        "areas of errors on a torus",
        "dissection",
        "decision.separation(own, flipped[blur])",
        "decision.separation(circular, flipped[blur])",
        "test_layers.py::test_what_is_described_is_what_was_measured",
        "areas are those of other errors",
    ),
    Bug(
        "shares of the sum of sizes",
        "dissection",
        "total = float(parts.sum())",
        "total = float(np.abs(parts).sum())",
        "test_layers.py::test_shares_add_up_to_1_where_parts_work_against_each_other",
        "shares do not add up to 1 where a part works against the others",
    ),
    Bug(
        "product relative to the images",
        "dissection",
        "seen.images[blur], seen.outputs[depth])",
        "seen.images[blur], np.ones_like(seen.outputs[depth]))",
        "test_layers.py::test_what_is_described_is_what_was_measured",
        "products of constants are no relative errors",
    ),
    Bug(
        "bound relative to itself",
        "dissection",
        "quantiles(ratio(local, measured))",
        "quantiles(ratio(measured, local))",
        "test_layers.py::test_what_is_measured_at_a_layer_is_what_its_clean_input_gives_alone",
        "bounds are drawn at the inverse of their size",
    ),
    Bug(
        "answer to another number of images",
        "layers",
        "repr((question.images, question.views))",
        "repr(question.views)",
        "test_layers.py::test_a_finished_result_is_found_and_another_question_refused",
        "a result of few images is shown as one of many",
    ),
    Bug(
        "borders' columns swapped",
        "layer_tables",
        'for border in (blur["border"], "circular"):',
        'for border in ("circular", blur["border"]):',
        "test_layer_report.py::test_rows_hold_the_numbers_of_the_result",
        "each border's error is in the other's column",
    ),
    Bug(
        "first product for the last",
        "layer_report",
        '(*known[-1], known[-1][1]["propagated"][place]["product"])',
        '(*known[0], known[0][1]["propagated"][place]["product"])',
        "test_layer_report.py::test_the_classical_picture_stands_beside_what_was_measured",
        "the product of all constants is that of one layer",
    ),
    Bug(
        "a file names a logger of its own",
        "trust",
        "not in LOGGERS and path not in _allowed",
        "not in LOGGERS and path == ''",
        "test_loggers.py::test_an_own_logger_is_run_where_the_command_line_names_it",
        "a config from anywhere runs code",
    ),
    Bug(
        "a logger is part of the identity",
        "config",
        '"runs", "loggers", "cache"',
        '"runs", "cache"',
        "test_loggers.py::test_a_logger_changes_no_result",
        "a run is refused as another one because it was logged elsewhere",
    ),
    # images looked at before training
    Bug(
        "too few blocks of a hash",
        "lookalikes",
        "BLOCKS = MOST_BITS + EQUAL",
        "BLOCKS = MOST_BITS + EQUAL - 1",
        "test_check_data.py::test_the_index_finds_every_pair_that_comparing_all_finds",
        "copies whose differing bits are spread are not found",
    ),
    Bug(
        "bits against the mean of all frequencies",
        "lookalikes",
        "np.median(coefficients[1:])",
        "np.mean(coefficients)",
        "test_check_data.py::test_the_hash_is_the_low_frequencies_of_a_dct",
        "the mean is that of the brightness, so that nearly all bits are 0 and unlike pictures look alike",
    ),
    Bug(
        "only one image of those that look alike is told across splits",
        "lookalikes",
        "self._is_told[kind, one, self._splits[other]] & self._is_told[kind, other, self._splits[one]]",
        "self._is_told[kind, one, self._splits[other]] | self._is_told[kind, other, self._splits[one]]",
        "test_check_data.py::test_as_many_pairs_are_told_as_leave_nothing_unsaid",
        "training images that look like test images go unsaid",
    ),
    Bug(
        "further test sets are one with the test split",
        "checking",
        "Links(checked.sides, checked.splits, checked.labels)",
        "Links(checked.sides, checked.sides, checked.labels)",
        "test_check_data.py::test_every_split_and_image_that_has_a_look_alike_is_named",
        "a further test set that holds training images goes unsaid",
    ),
    Bug(
        "look-alikes without their classes",
        "checking",
        "Links(checked.sides, checked.splits, checked.labels)",
        "Links(checked.sides, checked.splits, 0 * checked.labels)",
        "test_check_data.py::test_many_images_that_look_alike_have_a_row_each",
        "conflicts of labels are hidden among look-alikes",
    ),
    Bug(
        "a pair of two classes settles one of one class",
        "lookalikes",
        "(self._labels[one] != self._labels[other]) * 1",
        "(self._labels[one] != self._labels[one]) * 1",
        "test_check_data.py::test_as_many_pairs_are_told_as_leave_nothing_unsaid",
        "conflicts of labels are hidden among look-alikes",
    ),
    Bug(
        "one stands for its duplicates in all splits",
        "scanning",
        "(ids[1:] != ids[:-1]) | (side[1:] != side[:-1])",
        "ids[1:] != ids[:-1]",
        "test_check_data.py::test_a_near_duplicate_of_a_duplicate_is_told_on_both_sides",
        "a near duplicate of a test image is taken for one within training",
    ),
    Bug(
        "the test copy of a duplicate is named",
        "findings",
        "np.lexsort((places, -sides[places], found.ids[places]))",
        "np.lexsort((places, sides[places], found.ids[places]))",
        "test_check_data.py::test_planted_faults_are_found_and_nothing_else",
        "test images leave the mended list, and training images stay",
    ),
    Bug(
        "conflicting labels stay in the mended list",
        "findings",
        'LEFT_OUT = ("unreadable", "duplicate across splits", "label conflict")',
        'LEFT_OUT = ("unreadable", "duplicate across splits")',
        "test_check_data.py::test_what_is_left_loads_and_is_clean",
        "a head is trained to say two things of one picture",
    ),
    Bug(
        "copies count as different pictures",
        "findings",
        "np.bincount(labels[is_new], minlength=classes)",
        "np.bincount(labels, minlength=classes)",
        "test_check_data.py::test_a_validation_split_takes_the_place_of_folds",
        "a class of one picture passes the check, and training refuses it",
    ),
    Bug(
        "a check that found problems ends like one that found none",
        "commands",
        "return 0 if check.is_fit else FOUND",
        "return 0",
        "test_check_data.py::test_exit_codes_and_verdicts",
        "a script trains on images that are not fit for it",
    ),
    # pipelines
    Bug(
        "one image's draws for a whole batch",
        "pipelines",
        "spawn_key=(view.copy, epoch, int(content, 16))",
        "spawn_key=(view.copy, epoch, int(ids[0], 16))",
        "test_augment.py::test_draws_follow_from_content_seed_copy_and_epoch_alone",
        "what an image looks like depends on the batch that it lies in",
    ),
    Bug(
        "copies that are all alike",
        "pipelines",
        "spawn_key=(view.copy, epoch, int(content, 16))",
        "spawn_key=(1, epoch, int(content, 16))",
        "test_augment.py::test_epochs_and_copies_draw_anew_whatever_the_place",
        "the second copy is the first once more",
    ),
    Bug(
        "every epoch the first one",
        "copies",
        "pipelines.drawn(pixels, ids, view, epoch)",
        "pipelines.drawn(pixels, ids, view)",
        "test_augment.py::test_epochs_and_copies_draw_anew_whatever_the_place",
        "nothing is drawn anew, and training on images sees the same copies in every epoch",
    ),
    Bug(
        "a pipeline's features found by its number alone",
        "features",
        "[versions, PIPELINE_VERSION, view.pipeline, view.seed, view.copy]",
        "[versions, PIPELINE_VERSION, view.copy]",
        "test_augment.py::test_copies_pass_the_backbone_once_and_test_images_never",
        "another pipeline's copies are taken for this one's",
    ),
    Bug(
        "one pipeline for all threads",
        "pipelines",
        "_of_thread = threading.local()",
        "_of_thread = threading.Event()",
        "test_augment.py::test_threads_do_not_disturb_each_other",
        "a copy is drawn by another image's generator, by chance",
    ),
    Bug(
        "tried as it is alone",
        "pipelines",
        '1.0 if key == "p" and NAME in value else',
        '0.0 if key == "p" and NAME in value else',
        "test_augment.py::test_pipelines_that_are_refused",
        "a rare crop ends the command in the middle of the work",
    ),
    Bug(
        "the narrower half is heavy",
        "kernels",
        "spread(view, side) >= widths[len(widths) // 2]",
        "spread(view, side) <= widths[len(widths) // 2]",
        "test_augment.py::test_without_blurred_copies_the_wider_half_is_heavy",
        "the slight blurs stand in the heavy mean",
    ),
    Bug(
        "a pipeline in the baseline",
        "config",
        "replace(self, copies=(), augment=AugmentConfig(), duplicated=False",
        "replace(self, copies=(), duplicated=False",
        "test_augment.py::test_arms_have_names_of_their_own",
        "the arm is compared with itself",
    ),
    # what a finished run is used for
    Bug(
        "answers of a batch turned round",
        "predictions",
        "rows = iter(answering(good) if good else ())",
        "rows = iter(answering(good)[::-1] if good else ())",
        "test_predict.py::test_answers_are_those_of_the_classifier",
        "each file has the class of another one",
    ),
    Bug(
        "least probable class first",
        "predictions",
        'np.argsort(-probabilities, kind="stable")',
        'np.argsort(probabilities, kind="stable")',
        "test_predict.py::test_answers_are_those_of_the_classifier",
        "every image is called what it is least likely to be",
    ),
    Bug(
        "head without its bias",
        "predictions",
        "@ self.weight.T + self.bias",
        "@ self.weight.T",
        "test_predict.py::test_answers_are_those_of_the_classifier",
        "probabilities are those of another head",
    ),
    Bug(
        "matches of a pattern twice",
        "predictions",
        "return list(dict.fromkeys(found))  #",
        "return found  #",
        "test_predict.py::test_files_folders_and_patterns_in_their_order",
        "files have two rows and are counted twice",
    ),
    Bug(
        "good files counted as bad",
        "predictions",
        "bad += row.error is not None",
        "bad += row.error is None",
        "test_predict.py::test_a_broken_file_has_a_row_that_says_so",
        "the number of files that could not be used is that of the others",
    ),
    Bug(
        "mean difference for the largest",
        "exporting",
        "np.abs(answer(some) - expected).max()",
        "np.abs(answer(some) - expected).mean()",
        "test_export.py::test_the_largest_difference_of_all_counts",
        "a file that is wrong for few images is written as right",
    ),
    Bug(
        "answers that are no numbers pass",
        "exporting",
        'return float("nan")',
        "return largest",
        "test_export.py::test_answers_that_are_no_numbers_differ",
        "a graph that gives no numbers is written",
    ),
    Bug(
        "few images checked",
        "exporting",
        "tested_images(loaded, loaded.config, CHECKED)",
        "tested_images(loaded, loaded.config, AT_ONCE)",
        "test_export.py::test_a_file_answers_as_the_run_does",
        "the difference is that of ten images",
    ),
    Bug(
        "limit at the median",
        "sharpness",
        "return min(good, key=lambda tested: tested.median).low",
        "return min(good, key=lambda tested: tested.median).median",
        "test_sharpness.py::test_what_an_image_resembles",
        "half of what was tested counts as not tested",
    ),
    Bug(
        "judged by its own medians",
        "sharpness",
        "others = values[:, ~judged] if count > 1 else values",
        "others = values[:, judged] if count > 1 else values",
        "test_sharpness.py::test_confusion_is_told_by_the_other_half",
        "the check looks more reliable than it is",
    ),
    Bug(
        "floats taken for grey levels",
        "deployed",
        "images.float() / 255 if images.dtype == torch.uint8 else images",
        "images.float() / 255",
        "test_export.py::test_a_run_is_loaded_as_a_plain_module",
        "images in [0, 1] are seen as black",
    ),
    Bug(
        "changed weights are loaded",
        "deployed",
        'if backbone.fingerprint() != told["fingerprint"]:',
        "if not backbone.fingerprint():",
        "test_export.py::test_a_changed_file_is_refused",
        "a damaged file answers as if it were whole",
    ),
    Bug(
        "a fold's head on the card",
        "model_card",
        "refit = found.heads.index(REFIT)",
        "refit = 0",
        "test_export.py::test_a_card_tells_the_numbers_of_the_run",
        "the card has the accuracy of a head that is not in the file",
    ),
    Bug(
        "edited card written over",
        "model_card",
        "if path.exists() and not _is_ours(path):",
        "if path.exists() and _is_ours(path):",
        "test_export.py::test_an_edited_card_is_kept",
        "what somebody has written into a card is lost",
    ),
    Bug(
        "another network's name taken",
        "tools",
        "if name != own:",
        "if name == own:",
        "test_own_networks.py::test_predict_and_export_take_the_name_again",
        "a run answers for a network that it is not",
    ),
    Bug(
        "numbers and texts for labels",
        "shard_index",
        "if len(first) > 1:",
        "if len(first) > 2:",
        "test_sentences.py::test_labels_are_numbers_here_and_texts_there",
        "an index and the name of the same class become two classes",
    ),
    Bug(
        "stored units not counted as done",
        "progress",
        "initial=stored,",
        "initial=0,",
        "test_progress.py::test_a_step_is_one_bar_and_then_one_line",
        "a bar begins at 0 though most is stored",
    ),
    Bug(
        "a bar within a bar",
        "progress",
        "    if _running:\n        yield Progress(None)",
        "    if _running and total > 99:\n        yield Progress(None)",
        "test_progress.py::test_a_step_within_a_step_is_a_part_of_it",
        "two bars jump between lines",
    ),
    Bug(
        "verbose shows nothing more",
        "chatter",
        "    if _let_through:\n        return",
        "    if _let_through is None:\n        return",
        "test_progress.py::test_libraries_are_silenced_by_their_exact_words_alone",
        "the switch does nothing",
    ),
    Bug(
        "next commands are not quoted",
        "endings",
        "one_line(shlex.join(map(str, words)))",
        'one_line(" ".join(map(str, words)))',
        "test_endings.py::test_what_is_to_be_copied_is_quoted",
        "a path with a space breaks the command that is copied",
    ),
    Bug(
        "an arm that is no better is exported",
        "endings",
        'if heavy and verdicts[best]["verdict"] == "better":',
        "if heavy:",
        "test_endings.py::test_a_better_arm_is_exported_and_others_are_searched_for",
        "a classifier that gains nothing is recommended for use",
    ),
    Bug(
        "a shift counts as blur",
        "nearest_severity",
        "phase *= along[:, None] if axis == 0 else along",
        "phase *= np.abs(along)",
        "test_previews.py::test_a_shift_is_no_blur",
        "one-sided motion seems stronger than it is",
    ),
    Bug(
        "severities compared on noise",
        "nearest_severity",
        "return np.asarray((1 / squared) / (1 / squared).sum())",
        "return np.asarray((squared < np.inf) / (squared < np.inf).sum())",
        "test_previews.py::test_the_distance_is_that_of_blurred_pictures",
        "all frequencies count alike, as in no photograph",
    ),
    Bug(
        "nothing is stronger than severity 5",
        "nearest_severity",
        "place += distances[-1] > BEYOND * distance(scale[-1], scale[-2])",
        "place += False",
        "test_previews.py::test_a_stronger_blur_is_like_no_weaker_severity",
        "any blur seems to be within ImageNet-C",
    ),
    # the page of a comparison
    Bug(
        "the refitted head votes",
        "page_answers",
        "if name != REFIT and not name.startswith(EQUAL_EPOCHS)",
        "if not name.startswith(EQUAL_EPOCHS)",
        "test_page.py::test_answers_of_most_heads_are_those_of_the_file",
        "answers are of other heads than the accuracies beside them",
    ),
    Bug(
        "confidence of all heads",
        "page_answers",
        "sure = np.where(agreeing, confidence, 0).sum(0, dtype=np.float64) / most",
        "sure = confidence.mean(0, dtype=np.float64)",
        "test_page.py::test_answers_of_most_heads_are_those_of_the_file",
        "an answer is as sure as those are that gave another one",
    ),
    Bug(
        "confusion by columns",
        "page_answers",
        "return Confusion(keys // classes, keys % classes, counts)",
        "return Confusion(keys % classes, keys // classes, counts)",
        "test_page.py::test_confusion_is_scikit_learns",
        "what is taken for what is turned round",
    ),
    Bug(
        "images chosen from the front",
        "breakdown",
        "return sorted(found, key=lambda place: -abs(int(gain[place])))[:count]",
        "return found[:count]",
        "test_page.py::test_grids_show_what_changes_most_in_the_view_that_shows_it",
        "the images that change most are not shown",
    ),
    Bug(
        "severities of a seed pass for a length",
        "report",
        'if last["parameters"] else',
        'if curve.endswith("severity") else',
        "test_report.py::test_severities_are_no_measure_of_length",
        "a picture names a measure that its axis does not have",
    ),
    Bug(
        "shares cut off",
        "page_images",
        "return [count + (place in rest) for place, count in enumerate(given)]",
        "return given",
        "test_page.py::test_kinds_are_shown_in_proportion",
        "kinds that are rare are never shown",
    ),
    Bug(
        "another image passes for the tested one",
        "tested_images",
        "if read[1] == content:",
        "if read[1]:",
        "test_tested_images.py::test_an_image_that_has_changed_is_not_shown",
        "answers stand below an image that was never tested",
    ),
    Bug(
        "calibration counts",
        "page_answers",
        "weights = (None, confidence.ravel(), right.ravel())",
        "weights = (None, right.ravel(), right.ravel())",
        "test_page.py::test_gaps_of_calibration_sum_to_the_calibration_error",
        "every arm seems perfectly calibrated",
    ),
    Bug(
        "runs that were changed since",
        "page",
        'if run.result["files"][PREDICTIONS] != result["inputs"][arm]:',
        'if arm not in result["inputs"]:',
        "test_page.py::test_other_runs_than_were_compared_are_refused",
        "a page shows numbers of one run and answers of another",
    ),
    # weights of the classes
    Bug(
        "weights of all training images in every fold",
        "heads",
        "np.stack([np.bincount(labels[mask], minlength=classes) for mask in every])",
        "np.stack([np.bincount(labels[every[-1]], minlength=classes) for _ in every])",
        "test_heads.py::test_balanced_weights_are_those_of_sklearn_for_each_splits_own_rows",
        "held-out images have a part in the weights of the head that is validated on them",
    ),
    Bug(
        "penalty chosen by the unweighted loss",
        "heads",
        "(row_nll * held_out)",
        "(row_nll * validation)",
        "test_heads.py::test_penalty_is_chosen_by_the_weighted_validation_loss",
        "the penalty suits the frequent classes",
    ),
    Bug(
        "weights of another split",
        "heads",
        "training * self.training_weights[splits][:, labels].T",
        "training * self.training_weights[-1:][:, labels].T",
        "test_heads.py::test_balanced_heads_match_sklearn",
        "the classes of a fold's training images do not count alike",
    ),
    Bug(
        "curvature without weights",
        "curvature",
        " * weights[some][mask[some], None]",
        "",
        "test_curvature.py::test_blocks_are_those_of_the_hessian",
        "the solver takes many more steps on uneven classes",
    ),
    Bug(
        "weights of the refit given to a fold",
        "minibatch",
        "np.roll(class_weights, 1, axis=0)",
        "np.asarray(class_weights)",
        "test_class_weights.py::test_weights_of_the_refit_come_first_where_heads_do",
        "every head has the weights of its neighbour",
    ),
    Bug(
        "batch divided by the sum of its weights",
        "classifier",
        'F.cross_entropy(logits, labels, weights, reduction="none").mean()',
        "F.cross_entropy(logits, labels, weights)",
        "test_class_weights.py::test_each_head_of_a_classifier_has_weights_of_its_own",
        "a batch without rare images pulls as hard as one that has many",
    ),
    Bug(
        "networks judged by the unweighted loss",
        "tuning",
        "float(F.cross_entropy(logits, labels, weights))",
        "float(F.cross_entropy(logits, labels))",
        "test_class_weights.py::test_networks_are_judged_by_the_weighted_loss",
        "the step that is kept suits the frequent classes",
    ),
    Bug(
        "weights that are no part of a run",
        "config",
        'if self.head.class_weights == "none":',
        "if self.head.class_weights:",
        "test_class_weights.py::test_default_is_no_part_of_the_identity",
        "a balanced run is taken for a plain one that is finished",
    ),
    Bug(
        "charts of other metrics",
        "board",
        "sweep {curve}/{metric}')}$",
        "sweep {curve}/')}.*",
        "test_board.py::test_charts_match_one_tag_each",
        "each chart mixes accuracy, likelihood and calibration",
    ),
    Bug(
        "images that change least",
        "breakdown",
        "key=lambda place: -abs(int(gain[place]))",
        "key=lambda place: abs(int(gain[place]))",
        "test_board.py::test_shown_images_are_those_of_the_table_of_images",
        "images on the edge of a majority are shown as what copies change most",
    ),
    Bug(
        "one head's answers for those of most",
        "board",
        "predicted[:, positions], confidence[:, positions]",
        "predicted[-1:, positions], confidence[-1:, positions]",
        "test_board.py::test_answers_are_those_of_most_heads",
        "answers are shown that the table does not count",
    ),
    Bug(
        "another image under the same name",
        "tested_images",
        "if table.has(key).all() and contents(table, key)[0].decode() == content:",
        "if table.has(key).all():",
        "test_tested_images.py::test_an_image_that_has_changed_is_not_shown",
        "pictures and answers belong to different images",
    ),
    Bug(
        "pictures decoded though they are stored",
        "tested_images",
        "stored = None if table is None else _stored(ways, content, table)",
        "stored = None",
        "test_tested_images.py::test_stored_pixels_are_those_of_the_files_and_nothing_is_decoded",
        "a comparison decodes images a second time for its page",
    ),
    # what the page says of the runs
    Bug(
        "controls pass for copies",
        "page_setup",
        "if config.duplicated:",
        "if config.duplicated and not blurred:",
        "test_page.py::test_every_kind_of_arm_is_told_in_a_sentence",
        "an arm without any blurred image is said to have some",
    ),
    Bug(
        "every network is frozen",
        "page_setup",
        "if any(run.config.changes_backbone for run in runs.values()):",
        "if all(run.config.changes_backbone for run in runs.values()):",
        "test_page.py::test_every_kind_of_arm_is_told_in_a_sentence",
        "a network whose batch norms were changed is said to be as it was imported",
    ),
    Bug(
        "native width divided",
        "page_setup",
        "example.strength * scale",
        "example.strength / scale",
        "test_page.py::test_a_blur_is_as_wide_in_the_files_as_they_are_larger",
        "readers look for the wrong blur in their files",
    ),
    Bug(
        "every loss is found",
        "page_words",
        'if row["verdict"] == "worse"]',
        'if row["difference"] < 0]',
        "test_page.py::test_the_class_that_pays_is_named_where_it_is_found_worse",
        "the headline says that a class pays where chance alone may have done it",
    ),
    Bug(
        "the mean of heavy views is adjusted",
        "page_words",
        "if len(heavy) > 1:",
        "if heavy:",
        "test_page.py::test_intervals_are_told_as_they_were_made",
        "p that nothing was done to is said to be adjusted",
    ),
    Bug(
        "the rarest class answers",
        "page",
        "return float(counts.max() / counts.sum())",
        "return float(counts.min() / counts.sum())",
        "test_page.py::test_one_constant_answer_is_as_right_as_its_class_is_frequent",
        "arms that learned nothing seem to have learned something",
    ),
    Bug(
        "config without its last byte",
        "page_parts",
        "base64.b64encode(text).decode()",
        "base64.b64encode(text[:-1]).decode()",
        "test_page.py::test_configs_can_be_saved_and_what_differs_is_marked",
        "what is saved is not what made the run",
    ),
    Bug(
        "all keys marked",
        "page_parts",
        "if any(one.get(key) != first.get(key) for one in values.values())]",
        "if any(key in one for one in values.values())]",
        "test_page.py::test_configs_can_be_saved_and_what_differs_is_marked",
        "what tells the arms apart is lost among what they share",
    ),
    # guessing, what copies cost, and names of runs
    Bug(
        "guessing counted over classes",
        "breakdown",
        "float(counts[largest] / len(labels))",
        "float(counts[largest] / len(counts))",
        "test_comparison.py::test_guessing_and_the_mean_over_classes_by_hand",
        "The share of the largest class would be no share of the images.",
    ),
    Bug(
        "mean over classes of all views",
        "comparison",
        'groups, [view for view in per_view if view["heavy"]])',
        "groups, per_view)",
        "test_comparison.py::test_guessing_and_the_mean_over_classes_by_hand",
        "The clean view would be in a mean that is called heavy.",
    ),
    Bug(
        "clean cost without its limit",
        "choosing",
        "mean.estimate - limit > (",
        "mean.estimate > (",
        "test_recommend.py::test_a_clean_cost_refuses_where_it_exceeds_a_point_by_more_than_its_standard_error",
        "With many images, copies that cost less than a point would be refused.",
    ),
    Bug(
        "clean cost against the last step",
        "choosing",
        "if not _costs(one, path[0], units, chooses)",
        "if not _costs(one, path[-1], units, chooses)",
        "test_recommend.py::test_costs_of_several_copies_add_up",
        "Four copies might cost four points on clean images.",
    ),
    Bug(
        "won images called lost",
        "choosing",
        '"lost": int((change < 0).sum())',
        '"lost": int((change > 0).sum())',
        "test_recommend.py::test_the_answer_counts_the_clean_images_that_are_lost",
        "The sentence would say that copies cost nothing.",
    ),
    Bug(
        "samples of one class",
        "training",
        "np.lexsort((labels, turns))",
        "np.lexsort((turns, labels))",
        "test_tensorboard.py::test_samples_are_dealt_class_by_class",
        "TensorBoard would show four images of the first class.",
    ),
    Bug(
        "a service's run goes on into the next arm",
        "loggers",
        '("finish", "end")',
        '("finish",)',
        "test_loggers.py::test_what_a_service_runs_is_ended_with_its_arm",
        "Comet shows both arms as one experiment.",
    ),
    Bug(
        "no heavy view without copies",
        "arms",
        "if copies else view in wide for view in views",
        "for view in views",
        "test_comparison.py::test_without_copies_the_wider_half_of_the_sweep_is_heavy",
        "A comparison of adapted networks has no finding.",
    ),
    Bug(
        "a logger's given name replaced",
        "loggers",
        "{**dict.fromkeys(taken, run), **arguments}",
        "{**arguments, **dict.fromkeys(taken, run)}",
        "test_loggers.py::test_each_logger_has_the_run_as_its_own_class_calls_it",
        "What a user names his run would be ignored.",
    ),
    # sharpness
    Bug(
        "fine alone",
        "sharpness",
        "min(MEETING * np.cbrt(fine), coarse)",
        "MEETING * np.cbrt(fine)",
        "test_sharpness.py::test_rounding_and_compression_do_not_sharpen",
        "rounding and JPEG make the heaviest blur seem slight",
    ),
    Bug(
        "the sharper of the two",
        "sharpness",
        "min(MEETING * np.cbrt(fine), coarse)",
        "max(MEETING * np.cbrt(fine), coarse)",
        "test_sharpness.py::test_it_is_the_formula",
        "slight blurs are told by what they leave alone",
    ),
    Bug(
        "transfer for its square",
        "sharpness",
        "passed = [np.exp(-((scale * min(height, width) / 224) ** 2) * frequency)",
        "passed = [np.exp(-((scale * min(height, width) / 224) ** 2) / 2 * frequency)",
        "test_sharpness.py::test_it_is_the_formula",
        "the Gaussians are narrower than said, by a root of two",
    ),
    Bug(
        "differences across alone",
        "sharpness",
        "4 - 2 * np.cos(down)[:, None] - 2 * np.cos(across)",
        "2 - 2 * np.cos(across) + 0 * down[:, None]",
        "test_sharpness.py::test_contrast_brightness_and_turns_do_not_matter",
        "a photograph on its side has another sharpness",
    ),
    Bug(
        "scales in pixels at any size",
        "sharpness",
        "(scale * min(height, width) / 224) ** 2",
        "scale**2",
        "test_sharpness.py::test_images_are_told_apart",
        "small sharp images count as blurrier than all that was tested",
    ),
    Bug(
        "scales of another measure believed",
        "sharpness",
        "return found if found.items() >= _key(run).items() else None",
        'return found if found["predictions"] == _key(run)["predictions"] else None',
        "test_sharpness.py::test_a_scale_of_another_measure_is_made_again",
        "images are judged by medians of another measure",
    ),
    Bug(
        "where a table's paths begin is not said whole",
        "manifests",
        "{self._table.parent.absolute()}",
        "{self._table.parent}",
        "test_manifests.py::test_a_table_whose_paths_all_lead_nowhere_says_where_they_begin",
        "relative paths are said to begin at a full stop",
    ),
    Bug(
        "a mended list names one file twice",
        "checking",
        "    used = set(whole)",
        "    used = set[Path]()",
        "test_check_data.py::test_a_list_names_files_without_detours_where_these_lead_to_the_same_file",
        "the list is refused, as an image must be listed once",
    ),
    Bug(
        "a mended list takes .. for text",
        "checking",
        "short if _is_same(short, path.parent) else path.parent",
        "short",
        "test_check_data.py::test_a_list_names_files_without_detours_where_these_lead_to_the_same_file",
        "behind a link other files are listed, or none",
    ),
    Bug(
        "a class with any deeper image is mentioned",
        "folder_source",
        "shallow = {folder for folder, path in found if path.parent == folder}",
        "shallow = {folder for folder, _ in found} - {folder for folder, path in found if path.parent != folder}",
        "test_sources.py::test_classes_that_may_lie_deeper_are_mentioned",
        "a note about classes that are as they should be",
    ),
    Bug(
        "a conflict has no value for a default",
        "runs",
        "known = values if key in values else _flat(plain(config))",
        "known = values",
        "test_runs.py::test_a_name_that_another_config_has_is_refused",
        "a config seems to lack a key that it has by default",
    ),
    Bug(
        "test images are counted as trained on",
        "training",
        "np.bincount(loaded.labels[loaded.train], minlength=count)",
        "np.bincount(loaded.labels, minlength=count)",
        "test_training.py::test_few_classes_are_named_with_their_training_images",
        "the opening line has more images of each class than are trained on",
    ),
)


# In a process and a copy of its own


@dataclass(frozen=True)
class Verdict:
    """What pytest says.

    Args:
        code: Its exit code.
        said: The end of its output.
        failed: The test that failed first.
        crash: How that failed, unless by an assertion of its own.
    """

    code: int
    said: str
    failed: str = ""
    crash: str = ""


class Watch:
    """A plugin that remembers the first failure, and sees to it that the copy's package is tested."""

    def __init__(self, copy: Path) -> None:
        self._package = copy / "blurtrain"
        self.failed = self.crash = ""

    def pytest_configure(self) -> None:
        """Refuse another package: the environment may have one installed.

        Raises:
            pytest.UsageError: If an import does not find the copy's.
        """
        found = Path(importlib.import_module("blurtrain").__file__ or "").parent
        if found != self._package:
            raise pytest.UsageError(f"blurtrain is imported from {found}, not from {self._package}")

    def pytest_exception_interact(
        self,
        node: pytest.Item | pytest.Collector,
        call: pytest.CallInfo[object],
        report: pytest.CollectReport | pytest.TestReport,
    ) -> None:
        """Remember the first failure."""
        if self.failed or call.excinfo is None:
            return
        self.failed = node.nodeid
        within = any(self._package in Path(entry.path).parents for entry in call.excinfo.traceback)
        own = call.excinfo.errisinstance((AssertionError, pytest.fail.Exception)) and not within
        if report.when != "call" or not own:
            self.crash = call.excinfo.exconly().partition("\n")[0]


def work(channel: Connection, copy: Path, core: int | None, words: Sequence[str]) -> None:
    """Run pytest in a copy, and send its verdict."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    os.chdir(copy)
    sys.dont_write_bytecode = False  # the copies of the template take along what it has compiled
    os.environ["PYTHONPATH"] = str(copy)  # for processes that tests start
    sys.path.insert(0, str(copy))
    folder = Path(tempfile.mkdtemp(dir=copy))
    with (folder / "said.txt").open("w+", encoding="utf-8", errors="replace") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        watch = Watch(copy)
        code = pytest.main(
            ["-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", f"--basetemp={folder / 'tests'}", *words],
            plugins=[watch],
        )
    said = (folder / "said.txt").read_text(encoding="utf-8", errors="replace")[-SAID:]
    channel.send(Verdict(int(code), said, watch.failed, watch.crash))


def verdict_of(copy: Path, core: int | None, tests: Sequence[str], *options: str) -> Verdict:
    """Run some tests of a copy in a process of their own."""
    receiver, sender = FORKS.Pipe(duplex=False)
    words = [*options, *(f"tests/{test}" for test in tests)]
    process = FORKS.Process(target=work, args=(sender, copy, core, words))
    process.start()
    sender.close()
    try:
        if not receiver.poll(PATIENCE):
            process.kill()
            return Verdict(-1, f"not ended after {PATIENCE} s")
        verdict: Verdict = receiver.recv()
        return verdict
    except EOFError:
        return Verdict(-1, "the process died")
    finally:
        process.join(GRACE)
        process.kill()
        process.join()


# Outside


@dataclass(frozen=True)
class Outcome:
    """What became of a bug: the test that noticed, or why it does not count as noticed."""

    caught: bool
    remark: str
    seconds: float


def copied(source: Path, target: Path) -> Path:
    """A copy of all that tests need, and of nothing else: images and runs may lie beside it."""
    target.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy2
        copy(source / name, target / name)
    return target


class Workshop:
    """Plants bugs in copies of a template, several side by side, each on a core of its own.

    Args:
        place: Empty folder.
        jobs: How many side by side.
    """

    def __init__(self, place: Path, jobs: int) -> None:
        self.jobs, self._place = jobs, place
        self._template = copied(ROOT, place / "template")
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
        self._cores: SimpleQueue[int | None] = SimpleQueue()
        for job in range(jobs):
            self._cores.put(cores[job % len(cores)])
        self.threads = ThreadPoolExecutor(jobs)

    def pass_unbroken(self, tests: Sequence[str]) -> Verdict:
        """What pytest says of the template; its compiled files are copied along from then on."""
        core = self._cores.get()
        try:
            return verdict_of(self._template, core, tests)
        finally:
            self._cores.put(core)

    def outcome_of(self, bug: Bug) -> Outcome:
        """Plant a bug and run its tests."""
        core, start = self._cores.get(), time.perf_counter()
        copy = self._place / bug.name
        try:
            copied(self._template, copy)
            path = copy / "blurtrain" / f"{bug.module}.py"
            path.write_text(bug.planted(path.read_text(encoding="utf-8")), encoding="utf-8")
            verdict = verdict_of(copy, core, [bug.tests], "-x")
        finally:
            shutil.rmtree(copy, ignore_errors=True)
            self._cores.put(core)
        return Outcome(*judged(verdict, bug), time.perf_counter() - start)


def judged(verdict: Verdict, bug: Bug) -> tuple[bool, str]:
    """Whether a bug was caught, and by which test or why not."""
    if verdict.code == pytest.ExitCode.OK:
        return False, f"NOT CAUGHT: {bug.why}"
    if verdict.code != pytest.ExitCode.TESTS_FAILED:
        last = (verdict.said.strip().splitlines() or [""])[-1]
        return False, f"NOT PLANTED: exit code {verdict.code}, {last}"
    if verdict.crash:
        return False, f"NOT PLANTED: {verdict.failed} crashes ({verdict.crash})"
    name = verdict.failed.removeprefix("tests/")
    return True, name if len(name) <= MOST_CHARACTERS else f"{name[:MOST_CHARACTERS]}..."


def misfits(bugs: Sequence[Bug]) -> list[str]:
    """What no longer fits the code."""
    found = []
    for bug in bugs:
        try:
            bug.planted((ROOT / "blurtrain" / f"{bug.module}.py").read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            found.append(str(error))
    return found


def all_caught(bugs: Sequence[Bug], workshop: Workshop) -> bool:
    """Plant the bugs and print a table."""
    start, tests = time.perf_counter(), sorted({bug.tests for bug in bugs})
    parts = [part for job in range(workshop.jobs) if (part := tests[job :: workshop.jobs])]
    for verdict in workshop.threads.map(workshop.pass_unbroken, parts):
        if verdict.code != pytest.ExitCode.OK:
            print(f"these tests must pass before a bug is planted:\n{verdict.said}")
            return False
    print(f"{len(tests)} selections of tests pass as they are: {time.perf_counter() - start:.0f} s\n", flush=True)
    caught, widest = 0, max(len(bug.name) for bug in bugs)
    for bug, outcome in zip(bugs, workshop.threads.map(workshop.outcome_of, bugs), strict=True):
        caught += outcome.caught
        print(f"{bug.name:<{widest}}  {bug.module:<11}  {outcome.seconds:>3.0f} s  {outcome.remark}", flush=True)
    print(f"\ncaught {caught} of {len(bugs)} in {time.perf_counter() - start:.0f} s")
    return caught == len(bugs)


def main(words: Sequence[str] | None = None) -> int:
    """Plant what is asked for; 0 where every bug is caught."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="NAME", help="part of a bug's name; may be given again")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="every N-th bug, from the K-th on (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="bugs that are tried side by side (default: 2)")
    arguments = parser.parse_args(words)
    part = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", arguments.part)
    if part is None:
        parser.error("give a part as K/N, such as 1/3")
    bugs = [bug for bug in BUGS if not arguments.only or any(part in bug.name for part in arguments.only)]
    bugs = bugs[int(part[1]) - 1 :: int(part[2])]
    if not bugs or arguments.jobs < 1:
        parser.error("give a part of a bug's name, and at least one job")
    if unfit := misfits(bugs):
        print("these bugs no longer fit the code:", *unfit, sep="\n  ")
        return 1
    os.environ |= {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}  # a core each, and no network
    FORKS.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as place:
        workshop = Workshop(Path(place).resolve(), arguments.jobs)
        try:
            return int(not all_caught(bugs, workshop))
        finally:
            workshop.threads.shutdown(cancel_futures=True)


if __name__ == "__main__":
    sys.exit(main())
