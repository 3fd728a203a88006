"""The image processor of a pretrained encoder as one of our own, which every step can carry."""

from typing import Any

from transformers import AutoImageProcessor, PreTrainedConfig, ViTImageProcessor
from transformers.image_utils import PILImageResampling

from hub.run.errors import InputError, first_line


def make_encoder_processor(
    name: str, revision: str | None, config: PreTrainedConfig, image_size: int | None, center_crop: bool
) -> ViTImageProcessor:
    """
    The processor to publish with a model that has this encoder: the same normalisation, size, crop and interpolation
    as the encoder's own, in a class that saves all of them.

    Args:
        name (`str`), revision (`str`, *optional*): of the encoder.
        config (`PreTrainedConfig`): of the encoder.
        image_size (`int`, *optional*): height and width, in pixels, in place of its own; the part of the image that
            the crop keeps stays the same.
        center_crop (`bool`): whether to crop where the encoder's own does; otherwise whole images are resized.

    Raises:
        InputError: the encoder has no processor, or one of a kind that is not known.
    """
    if config.model_type == "timm_wrapper":
        fields = _of_timm(config)
    else:
        try:
            fields = _of_processor(AutoImageProcessor.from_pretrained(name, revision=revision))
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise InputError(
                f"--encoder_name_or_path {name} has no image processor that can be used ({first_line(error)}): choose "
                "an encoder with preprocessor_config.json."
            ) from error
    side = image_size or fields["crop"] or fields["size"]
    shorter = round(side * fields["size"] / fields["crop"]) if fields["crop"] and center_crop else None
    return ViTImageProcessor(
        size={"shortest_edge": shorter} if shorter else {"height": side, "width": side},
        do_center_crop=shorter is not None,
        crop_size={"height": side, "width": side},
        resample=fields["resample"],
        image_mean=fields["mean"],
        image_std=fields["std"],
        do_convert_rgb=True,
    )


def _of_processor(own: Any) -> dict[str, Any]:
    """Side of the image after resizing and of the crop, and the normalisation, of a processor of `transformers`."""
    size, crop = dict(own.size), None
    if "shortest_edge" in size:
        crop = _side(own.crop_size) if getattr(own, "do_center_crop", False) else size["shortest_edge"]
        # ConvNeXt names the side of the crop, and crops no image of 384 pixels or more.
        if (share := getattr(own, "crop_pct", None)) is not None:
            crop = size["shortest_edge"]
            size = {"shortest_edge": int(crop / share)} if crop < 384 else {"height": crop, "width": crop}
            crop = crop if crop < 384 else None
    elif getattr(own, "do_center_crop", False) and own.crop_size:
        crop = _side(own.crop_size)
    if not own.do_resize:
        raise ValueError("it does not resize")
    if getattr(own, "rescale_factor", 1 / 255) != 1 / 255:
        raise ValueError(f"it scales pixels by {own.rescale_factor}, expected 1/255")
    normalizes = own.do_normalize
    return {
        "size": size.get("shortest_edge") or size["height"],
        "crop": crop,
        "resample": own.resample,
        "mean": list(own.image_mean) if normalizes else [0.0] * 3,
        "std": list(own.image_std) if normalizes else [1.0] * 3,
    }


def _side(size: Any) -> int:
    return int(size["height"])


def _of_timm(config: Any) -> dict[str, Any]:
    """The same from the `pretrained_cfg` of timm, whose processor cannot be saved beside another model."""
    own = config.pretrained_cfg or {}
    side = int((own.get("test_input_size") or own.get("input_size") or (3, 224, 224))[-1])
    share = float(own.get("test_crop_pct") or own.get("crop_pct") or 0.875)
    return {
        "size": int(side / share),
        "crop": side if share < 1 else None,
        "resample": getattr(PILImageResampling, (own.get("interpolation") or "bicubic").upper()),
        "mean": list(own.get("mean") or (0.485, 0.456, 0.406)),
        "std": list(own.get("std") or (0.229, 0.224, 0.225)),
    }
