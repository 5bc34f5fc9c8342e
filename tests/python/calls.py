"""Calls of RPCs by name: remembers which have succeeded, and which have failed as they should."""

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

CODE = grpc.StatusCode


class Api:
    """All services over one channel; `stubs` are the generated classes by service name."""

    def __init__(self, channel, stubs):
        self.stubs = {name: stub(channel) for name, stub in stubs.items()}
        self.good, self.bad = set(), set()

    def _call(self, rpc, request):
        service, method = rpc.split(".")
        return getattr(self.stubs[service], method)(request, timeout=20)

    def ok(self, rpc, request):
        answer = self._call(rpc, request)
        self.good.add(rpc)
        return answer

    def stream(self, rpc, request):
        answers = list(self._call(rpc, request))
        self.good.add(rpc)
        return answers

    def refused(self, rpc, request, code, reason=None, field=None):
        """The call fails with this code, and says why in google.rpc details."""
        try:
            answer = self._call(rpc, request)
            answer = list(answer) if hasattr(answer, "__next__") else answer
            raise AssertionError(f"{rpc} accepted {request}: {answer}")
        except grpc.RpcError as error:
            self._explained(rpc, error, code, reason, field)
        self.bad.add(rpc)

    @staticmethod
    def _explained(rpc, error, code, reason, field):
        what = f"{rpc}: {error.code()} {error.details()}"
        assert error.code() == code, f"{what}; expected {code}"
        assert error.details(), f"{what}: no sentence"
        details = Details(rpc_status.from_call(error))
        info = details.one(error_details_pb2.ErrorInfo)
        assert info and info.domain == "postrider" and info.reason, f"{what}: no ErrorInfo"
        assert reason in (None, info.reason), f"{what}: reason {info.reason}, expected {reason}"
        if field is not None:
            bad = details.one(error_details_pb2.BadRequest)
            fields = [violation.field for violation in bad.field_violations] if bad else []
            assert field in fields, f"{what}: fields {fields}, expected {field}"
        if code == CODE.FAILED_PRECONDITION:
            assert details.one(error_details_pb2.PreconditionFailure), f"{what}: no PreconditionFailure"
        if code == CODE.NOT_FOUND:
            assert details.one(error_details_pb2.ResourceInfo), f"{what}: no ResourceInfo"


class Details:
    def __init__(self, status):
        self.any = status.details if status else []

    def one(self, kind):
        for packed in self.any:
            message = kind()
            if packed.Unpack(message):
                return message
        return None
