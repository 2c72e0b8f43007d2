"""Judging frozen features by named protocols. Meets the model through tensors and callables only."""

from soda_fast.evaluation.features import extract_features, own_count, padded_share
from soda_fast.evaluation.frechet import frechet_distance
from soda_fast.evaluation.holdout import stratified_holdout
from soda_fast.evaluation.knn import knn_accuracy
from soda_fast.evaluation.linear_probe import linear_probe
from soda_fast.evaluation.measurement import MEASURES, Measurement, format_measurements
from soda_fast.evaluation.protocols import PROTOCOLS, run_protocol, run_protocols
from soda_fast.evaluation.provider import CachedFeatures, FeatureProvider, Split
from soda_fast.evaluation.psnr import psnr
from soda_fast.evaluation.report import Subject, format_table, notes, table_rows, write_report
from soda_fast.evaluation.result import Result, headline
from soda_fast.evaluation.ssim import ssim
from soda_fast.evaluation.versions import versions

__all__ = [
    "MEASURES",
    "PROTOCOLS",
    "CachedFeatures",
    "FeatureProvider",
    "Measurement",
    "Result",
    "Split",
    "Subject",
    "extract_features",
    "format_measurements",
    "format_table",
    "frechet_distance",
    "headline",
    "knn_accuracy",
    "linear_probe",
    "notes",
    "own_count",
    "padded_share",
    "psnr",
    "run_protocol",
    "run_protocols",
    "ssim",
    "stratified_holdout",
    "table_rows",
    "versions",
    "write_report",
]
