"""The parts of `backward_cells`, in the order in which to read them.

plan              what a cell is; once for an image: where a cell's candidates lie, and which path finds its outputs
images            what lanes hold, and how it is loaded, stored and passed to a neighbour
paths             the paths: which candidates lie in a row of cells, and what they give to corners and to theta (`give`)
tile              a warp walks down the rows of its tile and adds up what the corners of neighbouring cells give
pixel_by_pixel    the other way to fill a tile, for pixels that gather a great part of the output

Words
    candidate   an output that may lie in a cell; it lies there (a hit) if its recomputed coordinate does
    window      the box of candidates of a cell: `Plan.columns` x `Plan.rows` outputs
    tile        CELLS x ROWS input pixels of one program, a column of it in each lane; a row of cells is a step
    strip, band column and row of tiles, by number
    vector      VECTOR neighbouring channels, loaded together (1, unless channels_last)
    block       what the lanes of a warp hold together: (VECTORS, CELLS, VECTOR) numbers
    chunk       one of the CHUNKS blocks that a program holds, as a tuple
"""
