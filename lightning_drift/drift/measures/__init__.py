"""The measures of drift: pure functions of pictures' features and of the denoiser."""
