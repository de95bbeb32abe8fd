"""What runs on Ray: frames, channel, listener, merging, session, replica.

The only package, with the composition root, that imports Ray or ONNX Runtime. Part of the data
plane: it never imports the control plane.
"""
