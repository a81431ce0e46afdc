"""The parts of `backward_pixels`: what a visit gives, mirrored copies of the image, and how a tile gathers."""
