"""Classify a picture with a model of ``gpunet export``, without gpunet: onnxruntime, NumPy and Pillow are enough.

python scripts/predict_with_onnxruntime.py model.onnx picture.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
batch, height, width, channels = session.get_inputs()[0].shape
picture = Image.open(sys.argv[2]).convert("RGB" if channels == 3 else "L").resize((width, height))
pixels = np.asarray(picture, np.uint8).reshape(1, height, width, channels)
(probabilities,) = session.run(["probabilities"], {"input": pixels})[0]
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
for index in np.argsort(-probabilities)[:3]:
    print(f"{names[index]:<20} {100 * probabilities[index]:6.2f} %")
