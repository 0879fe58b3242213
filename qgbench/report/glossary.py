"""The words of a report that a reader may not know, a sentence each."""

from collections.abc import Mapping
from types import MappingProxyType

from qgbench.report.sections import COLLAPSE

GLOSSARY: Mapping[str, str] = MappingProxyType(
    {
        "twin, base": (
            "two runs that differ in the add-on alone and share weights at the start, images and order; the base is "
            "the one without."
        ),
        "g": "the network that predicts the Dice of a mask from image and mask, without the truth.",
        "pseudo-label": "a network's own prediction of an image without a label, taken as its label.",
        "QW, QAR": (
            "the add-ons: QW weighs each pseudo-label by the quality that g predicts; QAR adds a loss that asks g for "
            "predictions of high quality."
        ),
        "kept share": "the share of pseudo-labels of which g predicts a quality of tau or more; the others weigh 0.",
        "effective sample size": (
            "how many pseudo-labels a step rests on, as a share of its batch: (sum w)^2 / (B sum w^2)."
        ),
        "test group": "what a new patient brings anew: a patient, lesion or video; the image where none is known.",
        "seed": "one training, with weights, order and labelled images of its own; twins share theirs.",
        "95 % interval": (
            "where the mean over all such patients and trainings lies, if what was measured is a fair sample of both; "
            "19 of 20 such intervals hold it."
        ),
        "p, one-sided p": (
            "how often a difference as large would be seen in either direction, or in this one, if there were none; "
            "no probability that a claim is true."
        ),
        "HD95": (
            "the 95th percentile of the distances between both borders; the image's diagonal where one mask is empty."
        ),
        "NSD": "the share of both borders that lies within a tolerance (2 px) of the other.",
        "missed": "an image (of a volume: a class) with a lesion in which nothing was predicted.",
        "interquartile mean": "the mean of the middle half: a quarter of the images is cut off at each end.",
        "worst 10 %": "the mean of the tenth of the test images in which a run is worst.",
        "collapsed": (
            f"a run whose mean Dice is more than {100 * COLLAPSE:.0f} points under supervised training with its seed."
        ),
        "Kendall's tau": "how far two rankings agree: 1 in all pairs, 0 in half of them, -1 in none.",
    }
)
