"""Property tests run the same examples every time; the first one of each shape compiles."""

import hypothesis

hypothesis.settings.register_profile("entropax", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("entropax")
