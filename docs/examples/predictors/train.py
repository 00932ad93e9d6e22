"""Makes the artifacts that the other files load: python train.py FOLDER."""

import sys
from pathlib import Path

import joblib
import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

COLUMNS = ["mean radius", "mean texture", "mean smoothness"]


def train(folder: Path) -> None:
    """Three models on data that comes with scikit-learn."""
    tumours = load_breast_cancer(as_frame=True)
    benign = tumours.target == 1
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    joblib.dump(pipeline.fit(tumours.data[COLUMNS], ~benign), folder / "tumours.joblib")

    boosted = XGBClassifier(n_estimators=30, max_depth=3, n_jobs=1)
    boosted.fit(tumours.data.to_numpy(np.float32), ~benign).save_model(folder / "tumours.ubj")

    pixels, digits = load_digits(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(pixels, digits)
    model = to_onnx(pipeline, pixels[:1].astype(np.float32), options={"zipmap": False})
    (folder / "digits.onnx").write_bytes(model.SerializeToString())


if __name__ == "__main__":
    train(Path(sys.argv[1]))
