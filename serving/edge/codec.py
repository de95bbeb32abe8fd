"""A model version as the wire sees it: requests in, answers out.

Both protocols use it. REST brings a body and takes a body; gRPC brings and takes single tensors.
"""

from serving.core.models import ModelVersion
from serving.edge.decoding import RequestDecoder
from serving.edge.encoding import AnswerEncoder


class Signature:
    """One version's decoder and encoder, made once per version."""

    __slots__ = ("decode", "decode_tensors", "encode", "tensors", "version")

    def __init__(self, version: ModelVersion) -> None:
        decoder, encoder = RequestDecoder(version), AnswerEncoder(version)
        self.version = version
        self.decode = decoder.decode
        self.decode_tensors = decoder.decode_tensors
        self.encode = encoder.encode
        self.tensors = encoder.tensors
