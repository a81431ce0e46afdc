"""The parts of `backward_cells`: plan, paths, tile, a tile pixel by pixel, and rows of pixels in lanes."""
