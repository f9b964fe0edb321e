"""From an image in any form to what the model reads: the one place for generation, training, evaluation and export.

| file | from | to |
|---|---|---|
| `image_file.py` | a file, or its bytes | RGB, upright and opaque |
| `rgb.py` | a PIL image of any mode | RGB, upright and opaque |
| `color_profile.py` | colours with an ICC profile | sRGB |
| `arrays.py` | arrays and tensors | checked |
| `fit.py` | RGB of any shape | the part that is read, at the model's size |
"""
