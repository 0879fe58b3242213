"""The metrics of an image, as columns of a table. Imports no torch."""

IMAGE_COLUMNS = [
    "id",  # the image's name in its dataset
    "group",  # patient, lesion or video; the id itself where none is known
    "height",  # pixels, original resolution
    "width",  # pixels, original resolution
    "n_ref",  # foreground pixels of the reference mask
    "n_pred",  # foreground pixels of the prediction
    "n_tp",  # foreground pixels of both
    "dice",
    "jaccard",
    "precision",
    "recall",
    "hd95",  # pixels; 95th percentile of the two pooled directed distance sets (as medpy); empty if one mask is empty
    "hd95_max",  # pixels; larger of the two directed 95th percentiles (as MONAI)
    "assd",  # pixels; average symmetric surface distance
    "nsd_2px",  # normalised surface Dice at 2 pixels
    "nsd_2pct",  # normalised surface Dice at 2 % of the image diagonal
    "status",  # ok | missed | spurious | both_empty
    "q",  # the quality that g predicts for the prediction; empty where no g was trained
    "confidence",  # mean probability of the predicted foreground
]
TEXT_COLUMNS = ["id", "group", "status"]
DISTANCE_COLUMNS = ["hd95", "hd95_max", "assd"]
MEAN_COLUMNS = ("dice", "jaccard", "precision", "recall", "nsd_2px", "nsd_2pct")
EMPTY_MASK_RULE = (
    "both empty: Dice 1, distances 0, NSD 1; one empty: Dice 0, NSD 0, distances = the image diagonal in every average"
)
