"""Creates a tenant and a subscription, emits an event, and waits until it is delivered.

Generate the stubs first: see README.md.
"""

import argparse
import json
import os

import grpc

from postrider.v1 import deliveries_pb2, deliveries_pb2_grpc
from postrider.v1 import events_pb2, events_pb2_grpc
from postrider.v1 import subscriptions_pb2, subscriptions_pb2_grpc
from postrider.v1 import tenants_pb2, tenants_pb2_grpc


def ensure_tenant(channel: grpc.Channel, tenant: str) -> None:
    request = tenants_pb2.CreateTenantRequest(tenant=tenants_pb2.Tenant(id=tenant))
    try:
        tenants_pb2_grpc.TenantServiceStub(channel).CreateTenant(request)
        print(f"tenant        {tenant} (created)")
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.ALREADY_EXISTS:
            raise
        print(f"tenant        {tenant}")


def subscribe(channel: grpc.Channel, tenant: str, url: str) -> None:
    api = subscriptions_pb2_grpc.SubscriptionServiceStub(channel)
    created = api.CreateSubscription(
        subscriptions_pb2.CreateSubscriptionRequest(
            subscription=subscriptions_pb2.Subscription(tenant=tenant, url=url, event_types=["document.*"]),
            # With the same request id a repeated call returns the first call's result for a day.
            request_id=f"quickstart {url}",
        )
    )
    print(f"subscription  {created.subscription.id}")
    # Hand created.secret to the receiver. It is not returned again, except by RevealSigningKey.


def emit(channel: grpc.Channel, tenant: str, data: dict) -> str:
    event = events_pb2.NewEvent(
        type="document.completed",
        data=json.dumps(data).encode(),
        # Derived from the fact itself, so that emitting it again after a lost answer changes nothing.
        idempotency_key=f"completed-{data['documentId']}",
    )
    accepted = events_pb2_grpc.EventServiceStub(channel).Emit(
        events_pb2.EmitRequest(tenant=tenant, event=event), timeout=10
    )
    # From here on the event is on disk and will be delivered.
    again = " (accepted before)" if accepted.duplicate else ""
    print(f"event         {accepted.event_id}, {accepted.deliveries} deliveries{again}")
    return accepted.event_id


def wait_until_ended(channel: grpc.Channel, tenant: str, event: str) -> bool:
    """Follows the event's deliveries; the stream ends when all have ended."""
    request = deliveries_pb2.WatchDeliveriesRequest(tenant=tenant, event=event)
    states = {}
    for update in deliveries_pb2_grpc.DeliveryServiceStub(channel).WatchDeliveries(request):
        delivery = update.delivery
        if delivery.id and states.get(delivery.id) != delivery.state:
            states[delivery.id] = delivery.state
            print(f"delivery      {delivery.id}  {deliveries_pb2.DeliveryState.Name(delivery.state)}")
    return all(state == deliveries_pb2.DELIVERY_STATE_DELIVERED for state in states.values())


def connect(args: argparse.Namespace) -> grpc.Channel:
    """A channel over TLS that says with each call who makes it."""
    with open(args.token_file, encoding="ascii") as file:
        token = grpc.access_token_call_credentials(file.read().strip())
    authority = None  # the system's
    if args.ca:
        with open(args.ca, "rb") as file:
            authority = file.read()
    tls = grpc.ssl_channel_credentials(authority)
    return grpc.secure_channel(args.server, grpc.composite_channel_credentials(tls, token))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    server = os.environ.get("POSTRIDER_SERVER", "127.0.0.1:7070").removeprefix("https://")
    parser.add_argument("--server", default=server)
    parser.add_argument("--ca", default=os.environ.get("POSTRIDER_CA"), help="the authority of the server, PEM")
    parser.add_argument("--token-file", default=os.environ.get("POSTRIDER_TOKEN_FILE"), help="the token of an admin")
    parser.add_argument("--tenant", default="python-example")
    parser.add_argument("--url", default="http://127.0.0.1:7072/webhooks", help="where the receiver waits")
    args = parser.parse_args()
    if not args.token_file:
        parser.error("a token is needed: --token-file or POSTRIDER_TOKEN_FILE; `postrider dev` says which")

    with connect(args) as channel:
        ensure_tenant(channel, args.tenant)
        subscribe(channel, args.tenant, args.url)
        data = {"documentId": f"doc_{os.urandom(4).hex()}", "status": "completed", "confidence": 0.95}
        event = emit(channel, args.tenant, data)
        emit(channel, args.tenant, data)  # a repeat: the same event, delivered once
        if not wait_until_ended(channel, args.tenant, event):
            raise SystemExit("not delivered: `postrider deliveries show` says why")


if __name__ == "__main__":
    main()
