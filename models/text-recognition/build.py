"""Makes the stages of `text-recognition` that are no networks, and the sample page.

    python models/text-recognition/fetch.py
    python models/text-recognition/build.py

Takes `onnx` and Pillow, which the product does not need. Each stage is a small ONNX graph, written here in ONNX's own notation, so that it runs, is batched and
recorded like any model. `decoding` holds the characters that the network `text-reading` names in its
metadata. The files are the same bytes each time; `model.yaml` of each stage has their SHA-256.

    preparation  picture -> pixels   shorter side at least 736, longer at most 2000, multiples of 32
    lines        map, picture -> box, crop, small, width
    upright      crop, width, orientation -> line, turned where the network is sure that it is
    decoding     scores -> text, confidence (connectionist temporal classification, the best path)
"""

import hashlib
import sys
from pathlib import Path
from typing import Any, Final

import onnx
from onnx import parser
from PIL import Image, ImageDraw, ImageFont

HERE: Final = Path(__file__).resolve().parent
MODELS: Final = HERE.parent
PAGE: Final = (
    "Every answer leaves a record",
    "Signed, approved, bound",
    "2024-08-15",
    "Seven stages, one answer",
)
"""What stands on the sample page, line by line."""
UPSIDE_DOWN: Final = 1
"""The line of the page that is turned around."""

HEAD: Final = '<ir_version: 9, opset_import: ["" : 20]>\n'

PREPARATION: Final = """
preparation (uint8[H, W, 3] picture) => (float[1, 3, h, w] pixels)
<float one = {1}, float least = {736}, float most = {2000}, float unit = {32},
 float half = {127.5}, int64[3] bgr = {2, 1, 0}, int64[2] lead = {1, 3}, int64[1] zero = {0}>
{
    shape = Shape <start = 0, end = 2> (picture)
    size = Cast <to = 1> (shape)
    shorter = ReduceMin <keepdims = 0> (size)
    longer = ReduceMax <keepdims = 0> (size)
    wanted = Div (least, shorter)
    grown = Max (wanted, one)
    allowed = Div (most, longer)
    ratio = Min (grown, allowed)
    scaled = Mul (size, ratio)
    units = Div (scaled, unit)
    whole = Round (units)
    positive = Max (whole, one)
    sides = Mul (positive, unit)
    target = Cast <to = 7> (sides)
    sizes = Concat <axis = 0> (lead, target)
    swapped = Gather <axis = 2> (picture, bgr)
    numbers = Cast <to = 1> (swapped)
    planes = Transpose <perm = [2, 0, 1]> (numbers)
    one_picture = Unsqueeze (planes, zero)
    resized = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
        (one_picture, , , sizes)
    centred = Sub (resized, half)
    pixels = Div (centred, half)
}
"""

# Pixels of text that touch are one line. A pixel is a number from 1 on, with the numbers of its eight
# neighbours (0: none). In each turn it takes the largest number around it, and tells the pixel whose
# number it had; then it takes the number of the one that it has now, so that distances double from turn
# to turn (after Zhang, Azad and Hu, FastSV, 2020). A border of one keeps the edges apart.
COMPONENTS: Final = """
    bitmap = Greater (map, threshold)
    bits = Cast <to = 1> (bitmap)
    mask = MaxPool <kernel_shape = [2, 2], pads = [1, 1, 0, 0], strides = [1, 1]> (bits)
    map_shape = Shape (map)
    map_h = Gather <axis = 0> (map_shape, i2)
    map_w = Gather <axis = 0> (map_shape, i3)
    bordered = Pad (mask, border, f0)
    bordered_w = Add (map_w, i2)
    mask_flat = Reshape (bordered, flat)
    at_2d = NonZero (mask_flat)
    at = Squeeze (at_2d, axis0)
    number_shape = Shape (at)
    number = Gather <axis = 0> (number_shape, i0)
    behind = Add (number, i1)
    start = Range (i0, behind, i1)
    own = Range (i1, behind, i1)
    flat_shape = Shape (mask_flat)
    nowhere = Expand (i0, flat_shape)
    numbered = ScatterElements (nowhere, at, own)
    rows_away = Mul (away_y, bordered_w)
    away = Add (rows_away, away_x)
    around_at = Add (at, away)
    neighbours = Gather <axis = 0> (numbered, around_at)
    label = Loop (turns, yes, start) <body = spreading
        (int64 turn, bool again, int64[m] label_in) => (bool changed, int64[m] label_out)
    {
        near = Gather <axis = 0> (label_in, neighbours)
        nearest = ReduceMax <keepdims = 0> (near, axis0)
        known = Gather <axis = 0> (label_in, own)
        best = Max (nearest, known)
        joined = Concat <axis = 0> (axis0, best)
        hooked = ScatterElements <reduction = "max"> (joined, known, best)
        further = Gather <axis = 0> (hooked, best)
        label_out = Concat <axis = 0> (axis0, further)
        moved = Sub (label_out, label_in)
        furthest = ReduceMax <keepdims = 0> (moved)
        changed = Greater (furthest, i0)
    }>
    root_of = Gather <axis = 0> (label, own)
    is_root = Equal (root_of, own)
    root_2d = NonZero (is_root)
    root_place = Squeeze (root_2d, axis0)
    root = Add (root_place, i1)
    found_shape = Shape (root)
    found = Gather <axis = 0> (found_shape, i0)
    rank = Range (i0, found, i1)
    label_shape = Shape (label)
    no_rank = Expand (i0, label_shape)
    ranks = ScatterElements (no_rank, root, rank)
    component = Gather <axis = 0> (ranks, root_of)
    below = Div (at, bordered_w)
    beside = Mod (at, bordered_w)
    at_y = Sub (below, i1)
    at_x = Sub (beside, i1)
    y = Cast <to = 1> (at_y)
    x = Cast <to = 1> (at_x)
    map_rows = Mul (at_y, map_w)
    map_at = Add (map_rows, at_x)
    map_flat = Reshape (map, flat)
    likely = Gather <axis = 0> (map_flat, map_at)
    ones = Expand (f1, number_shape)
    far = Expand (big, found_shape)
    none = Expand (f0, found_shape)
    x0 = ScatterElements <reduction = "min"> (far, component, x)
    y0 = ScatterElements <reduction = "min"> (far, component, y)
    x1 = ScatterElements <reduction = "max"> (none, component, x)
    y1 = ScatterElements <reduction = "max"> (none, component, y)
    likely_sum = ScatterElements <reduction = "add"> (none, component, likely)
    pixels = ScatterElements <reduction = "add"> (none, component, ones)
    score = Div (likely_sum, pixels)
"""

BOXES: Final = """
    span_x = Sub (x1, x0)
    span_y = Sub (y1, y0)
    side_x = Add (span_x, f1)
    side_y = Add (span_y, f1)
    side = Min (side_x, side_y)
    is_large = GreaterOrEqual (side, least_side)
    is_likely = GreaterOrEqual (score, least_score)
    is_line = And (is_large, is_likely)
    line_2d = NonZero (is_line)
    all_lines = Squeeze (line_2d, axis0)
    some = Slice (all_lines, from_0, most_lines, axis0)
    area = Mul (side_x, side_y)
    around = Add (side_x, side_y)
    part = Div (area, around)
    distance = Mul (part, unclip)
    left_0 = Sub (x0, distance)
    top_0 = Sub (y0, distance)
    right_1 = Add (x1, f1)
    bottom_1 = Add (y1, f1)
    right_0 = Add (right_1, distance)
    bottom_0 = Add (bottom_1, distance)
    picture_shape = Shape (picture)
    picture_h_i = Gather <axis = 0> (picture_shape, i0)
    picture_w_i = Gather <axis = 0> (picture_shape, i1)
    picture_h = Cast <to = 1> (picture_h_i)
    picture_w = Cast <to = 1> (picture_w_i)
    map_h_f = Cast <to = 1> (map_h)
    map_w_f = Cast <to = 1> (map_w)
    scale_x = Div (picture_w, map_w_f)
    scale_y = Div (picture_h, map_h_f)
    left_s = Mul (left_0, scale_x)
    right_s = Mul (right_0, scale_x)
    top_s = Mul (top_0, scale_y)
    bottom_s = Mul (bottom_0, scale_y)
    left_p = Max (left_s, f0)
    top_p = Max (top_s, f0)
    right_p = Min (right_s, picture_w)
    bottom_p = Min (bottom_s, picture_h)
    left_u = Unsqueeze (left_p, axis1)
    top_u = Unsqueeze (top_p, axis1)
    right_u = Unsqueeze (right_p, axis1)
    bottom_u = Unsqueeze (bottom_p, axis1)
    every = Concat <axis = 1> (left_u, top_u, right_u, bottom_u)
    lines = Gather <axis = 0> (every, some)
    line_left = Gather <axis = 1> (lines, i0)
    line_top = Gather <axis = 1> (lines, i1)
    row_part = Div (line_top, row_height)
    row = Floor (row_part)
    row_key = Mul (row, big)
    key = Add (row_key, line_left)
    key_shape = Shape (key)
    sorted, order = TopK <axis = 0, largest = 0> (key, key_shape)
    box = Gather <axis = 0> (lines, order)
"""

# One line more than there are: what is sampled is never empty. It is cut off at the end.
CROPS: Final = """
    lines_more = Concat <axis = 0> (box, unit_box)
    c_left = Slice (lines_more, at_0, at_1, axis1)
    c_top = Slice (lines_more, at_1, at_2, axis1)
    c_right = Slice (lines_more, at_2, at_3, axis1)
    c_bottom = Slice (lines_more, at_3, at_4, axis1)
    c_width = Sub (c_right, c_left)
    c_height = Sub (c_bottom, c_top)
    tall = Div (c_width, c_height)
    wide = Mul (tall, f48)
    width_f = Ceil (wide)
    widest = ReduceMax <keepdims = 0> (width_f)
    fits = GreaterOrEqual (buckets, widest)
    fitting = Where (fits, buckets, largest_bucket)
    full_f = ReduceMin <keepdims = 0> (fitting)
    bgr_picture = Gather <axis = 2> (picture, bgr)
    picture_f = Cast <to = 1> (bgr_picture)
    planes = Transpose <perm = [2, 0, 1]> (picture_f)
    plane_1 = Unsqueeze (planes, axis0)
    centred = Sub (plane_1, half)
    image = Div (centred, half)
    step_y = Range (f0, f48, f1)
    mid_y = Add (step_y, f_half)
    part_y = Div (mid_y, f48)
    part_y_row = Unsqueeze (part_y, axis0)
    down = Mul (part_y_row, c_height)
    abs_y = Add (down, c_top)
    twice_y = Add (abs_y, abs_y)
    norm_y = Div (twice_y, picture_h)
    grid_y = Sub (norm_y, f1)
    grid_y3 = Unsqueeze (grid_y, axis2)
    more_shape = Shape (lines_more)
    more = Slice (more_shape, at_0, at_1)
    box_shape = Shape (box)
    line_number = Slice (box_shape, at_0, at_1)
"""

CROP: Final = """
    @width = Min (width_f, @full)
    @step = Range (f0, @full, f1)
    @mid = Add (@step, f_half)
    @mid_row = Unsqueeze (@mid, axis0)
    @part = Div (@mid_row, @width)
    @along = Mul (@part, c_width)
    @abs = Add (@along, c_left)
    @twice = Add (@abs, @abs)
    @norm = Div (@twice, picture_w)
    @grid = Sub (@norm, f1)
    @grid3 = Unsqueeze (@grid, axis1)
    @full_i = Cast <to = 7> (@full)
    @full_1 = Unsqueeze (@full_i, axis0)
    @shape3 = Concat <axis = 0> (more, i48_1, @full_1)
    @gx = Expand (@grid3, @shape3)
    @gy = Expand (grid_y3, @shape3)
    @gx4 = Unsqueeze (@gx, axis3)
    @gy4 = Unsqueeze (@gy, axis3)
    @points = Concat <axis = 3> (@gx4, @gy4)
    @rows = Mul (more, i48_1)
    @tall_shape = Concat <axis = 0> (at_1, @rows, @full_1, at_2)
    @tall = Reshape (@points, @tall_shape)
    @sampled = GridSample <mode = "linear", padding_mode = "border", align_corners = 0> (image, @tall)
    @apart_shape = Concat <axis = 0> (at_3, more, i48_1, @full_1)
    @apart = Reshape (@sampled, @apart_shape)
    @crops = Transpose <perm = [1, 0, 2, 3]> (@apart)
    @inside = Less (@step, @width)
    @inside_f = Cast <to = 1> (@inside)
    @inside4 = Unsqueeze (@inside_f, axes12)
    @cut = Mul (@crops, @inside4)
    @all = Slice (@cut, at_0, line_number, axis0)
"""

LINES: Final = (
    """
lines (float[1, 1, h, w] map, uint8[H, W, 3] picture)
    => (float[n, 4] box, float[n, 3, 48, v] crop, float[n, 3, 48, 192] small, int64[n, 1] width)
<float threshold = {0.3}, float least_score = {0.5}, float least_side = {3}, float unclip = {0.8},
 float f0 = {0}, float f1 = {1}, float f48 = {48}, float f192 = {192}, float f_half = {0.5},
 float half = {127.5}, float big = {100000}, float row_height = {10},
 int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, int64 i3 = {3}, int64 turns = {100}, bool yes = {1},
 int64[8] border = {0, 0, 1, 1, 0, 0, 1, 1}, int64[8, 1] away_x = {-1, 0, 1, -1, 1, -1, 0, 1},
 int64[8, 1] away_y = {-1, -1, -1, 0, 0, 1, 1, 1}, int64[1] flat = {-1}, int64[1] axis0 = {0}, int64[1] axis1 = {1}, int64[1] axis2 = {2},
 int64[1] axis3 = {3}, int64[2] axes12 = {1, 2}, int64[1] from_0 = {0}, int64[1] most_lines = {256},
 int64[1] at_0 = {0}, int64[1] at_1 = {1}, int64[1] at_2 = {2}, int64[1] at_3 = {3},
 int64[1] at_4 = {4}, int64[1] i48_1 = {48}, int64[3] bgr = {2, 1, 0},
 float[1, 4] unit_box = {0, 0, 1, 1}, float[5] buckets = {320, 640, 960, 1280, 1920},
 float largest_bucket = {1920}>
{"""
    + COMPONENTS
    + BOXES
    + CROPS
    + "    w_full = Identity (full_f)\n"
    + CROP.replace("@", "w_")
    + "    s_full = Identity (f192)\n"
    + CROP.replace("@", "s_")
    + """
    crop = Identity (w_all)
    small = Identity (s_all)
    width_i = Cast <to = 7> (w_width)
    width = Slice (width_i, at_0, line_number, axis0)
}
"""
)

UPRIGHT: Final = """
upright (float[n, 3, 48, v] crop, int64[n, 1] width, float[n, 2] orientation)
    => (float[n, 3, 48, v] line)
<float sure = {0.9}, int64 i0 = {0}, int64 i1 = {1}, int64 i3 = {3}, int64 i47 = {47}, int64 i48 = {48},
 int64[1] from_1 = {1}, int64[1] to_2 = {2}, int64[1] axis1 = {1},
 int64[2] axes12 = {1, 2}, int64[2] axes13 = {1, 3}>
{
    shape = Shape (crop)
    full = Gather <axis = 0> (shape, i3)
    turned_p = Slice (orientation, from_1, to_2, axis1)
    turned = Greater (turned_p, sure)
    step = Range (i0, full, i1)
    last = Sub (width, i1)
    mirrored = Sub (last, step)
    inside = Less (step, width)
    moves = And (turned, inside)
    wanted = Where (moves, mirrored, step)
    end = Sub (full, i1)
    capped = Min (wanted, end)
    column = Max (capped, i0)
    column4 = Unsqueeze (column, axes12)
    columns = Expand (column4, shape)
    across = GatherElements <axis = 3> (crop, columns)
    down = Range (i0, i48, i1)
    up = Sub (i47, down)
    row = Where (turned, up, down)
    row4 = Unsqueeze (row, axes13)
    rows = Expand (row4, shape)
    line = GatherElements <axis = 2> (across, rows)
}
"""

DECODING: Final = """
decoding (float[n, t, 6625] scores) => (string[n] text, float[n] confidence)
<int64 i0 = {0}, int64 i1 = {1}, float f1 = {1}, bool yes = {1}, int64[1] axis1 = {1},
 int64[1] axis2 = {2}, int64[4] one_before = {0, 1, 0, 0}, int64[1] start = {0}>
{
    best = ArgMax <axis = 2, keepdims = 0> (scores)
    likely = ReduceMax <keepdims = 0> (scores, axis2)
    shape = Shape (best)
    steps = Gather <axis = 0> (shape, i1)
    padded = Pad (best, one_before, i0)
    steps_1 = Unsqueeze (steps, start)
    before = Slice (padded, start, steps_1, axis1)
    is_same = Equal (best, before)
    is_blank = Equal (best, i0)
    is_silent = Or (is_same, is_blank)
    spoken = Where (is_silent, i0, best)
    letters = Gather <axis = 0> (charset, spoken)
    is_spoken = Not (is_silent)
    counts = Cast <to = 1> (is_spoken)
    weighed = Mul (likely, counts)
    total = ReduceSum <keepdims = 0> (weighed, axis1)
    number = ReduceSum <keepdims = 0> (counts, axis1)
    at_least = Max (number, f1)
    confidence = Div (total, at_least)
    zero_rows = Mul (number, number_0)
    zero_index = Cast <to = 7> (zero_rows)
    empty = Gather <axis = 0> (charset, zero_index)
    text = Loop (steps, yes, empty) <body = joining
        (int64 turn, bool again, string[n] text_in) => (bool more, string[n] text_out)
    {
        more = Identity (again)
        letter = Gather <axis = 1> (letters, turn)
        text_out = StringConcat (text_in, letter)
    }>
}
""".replace("float f1 = {1},", "float f1 = {1}, float number_0 = {0},")


def graph_of(text: str) -> Any:
    """A checked model of ONNX's notation."""
    return parser.parse_model(HEAD + text)


def decoding() -> Any:
    """With the characters of the network whose scores it decodes: blank, them, a space."""
    reading = onnx.load(MODELS / "text-reading" / "1.onnx")
    (said,) = [each.value for each in reading.metadata_props if each.key == "character"]
    charset = ["", *said.splitlines(), " "]
    model = graph_of(DECODING)
    strings = [each.encode() for each in charset]
    model.graph.initializer.append(
        onnx.helper.make_tensor("charset", onnx.TensorProto.STRING, [len(strings)], strings)
    )
    return model


def page() -> Image.Image:
    """The sample: black lines on white, one of them upside down."""
    picture = Image.new("L", (460, 230), "white")
    font = ImageFont.truetype("DejaVuSans.ttf", 24)
    for number, line in enumerate(PAGE):
        left, _, right, _ = font.getbbox(line)
        strip = Image.new("L", (int(right - left) + 20, 36), "white")
        ImageDraw.Draw(strip).text((10, 3), line, "black", font)
        if number == UPSIDE_DOWN:
            strip = strip.rotate(180)
        picture.paste(strip, (20, 14 + number * 54))
    return picture


def main() -> None:
    graphs = {
        "text-preparation": graph_of(PREPARATION),
        "text-lines": graph_of(LINES),
        "text-upright": graph_of(UPRIGHT),
        "text-decoding": decoding(),
    }
    for model, graph in graphs.items():
        onnx.checker.check_model(graph, full_check=True)
        content = graph.SerializeToString(deterministic=True)
        (MODELS / model / "1.onnx").write_bytes(content)
        sys.stdout.write(f"{hashlib.sha256(content).hexdigest()}  {model}/1.onnx\n")
    page().save(HERE / "samples" / "page.pgm")
    (HERE / "samples" / "page.txt").write_text("\n".join(PAGE) + "\n")


if __name__ == "__main__":
    main()
