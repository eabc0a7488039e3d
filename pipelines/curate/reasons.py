"""Why curation drops a pair: the counters, the reject table and the tests use these words."""

from enum import StrEnum


class Reason(StrEnum):
    """The one reason of a dropped row, in the order in which the rules are asked."""

    CAPTION_BOILERPLATE = "caption_boilerplate"
    CAPTION_TOO_SHORT = "caption_too_short"
    CAPTION_TOO_LONG = "caption_too_long"
    CAPTION_REPETITIVE = "caption_repetitive"
    CAPTION_NO_NOUN = "caption_no_noun"
    CAPTION_NO_DETERMINER = "caption_no_determiner"
    CAPTION_NO_PREPOSITION = "caption_no_preposition"
    CAPTION_MANY_NOUNS = "caption_many_nouns"
    CAPTION_NOT_CAPITALISED = "caption_not_capitalised"
    CAPTION_MANY_CAPITALS = "caption_many_capitals"
    LANGUAGE = "language"
    CAPTION_OF_MANY_IMAGES = "caption_of_many_images"
    TOO_FEW_BYTES = "too_few_bytes"
    PLACEHOLDER = "placeholder"
    NOT_AN_IMAGE = "not_an_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_FRAMES = "too_many_frames"
    DAMAGED_IMAGE = "damaged_image"
    DECODER_LIMITS = "decoder_limits"
    DECODER_CRASHED = "decoder_crashed"
    ASPECT_RATIO = "aspect_ratio"
    IMAGE_TOO_SMALL = "image_too_small"
    SINGLE_COLOUR = "single_colour"
    LOW_INFORMATION = "low_information"
