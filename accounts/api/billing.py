"""`billing/…`, `subscriptions/…` and `webhooks/stripe` (R3, contract §5)."""

from __future__ import annotations

from typing import Any, cast

import structlog
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api import problems
from accounts.api.fields import PatternField
from accounts.billing import checkout, events, plans, stripe_api
from accounts.billing.checkout import NotPossible
from accounts.models import Domain, Organization, Plan, Subscription, User

log = structlog.get_logger(__name__)

SIGNATURE = OpenApiParameter("Stripe-Signature", str, OpenApiParameter.HEADER, required=True)
NOT_CONFIGURED = "Billing is not set up on this server: STRIPE_API_KEY is missing."
ORGANIZATION = OpenApiParameter(
    "organization_id", int, description="For staff who belong to none, where there are several: which one is meant."
)
REFUSALS = {
    403: OpenApiResponse(description="For admins of the organization."),
    404: OpenApiResponse(description="There is no such organization."),
    409: OpenApiResponse(description="The account has no organization, or that one's state does not allow it."),
    422: OpenApiResponse(description="Stripe refuses it."),
    503: OpenApiResponse(description="Stripe is not set up, or away."),
}


_CHECKOUT = OpenApiExample("For a plan", value={"price_id": "price_1234567890"}, request_only=True)
_CANCEL = OpenApiExample("At the end of the period", value={"cancel_at_period_end": True}, request_only=True)
_PAGE = OpenApiExample(
    "Stripe's page",
    value={"session_id": "cs_test_…", "url": "https://checkout.stripe.com/c/pay/cs_test_…"},
    response_only=True,
    status_codes=["200"],
)
_SUBSCRIPTION_ITEM = OpenApiExample(
    "A subscription",
    value={
        "id": "sub_1234567890",
        "organization_id": 1,
        "status": "active",
        "price_id": "price_1234567890",
        "plan": {
            "name": "Pro",
            "stripe_price_id": "price_1234567890",
            "max_domains": 10,
            "max_mailboxes": 100,
            "max_messages_a_day": 10000,
        },
        "current_period_end": "2025-11-23T12:00:00Z",
        "cancel_at_period_end": False,
    },
    response_only=True,
    status_codes=["200"],
)
_EVENT = OpenApiExample(
    "A subscription that changed",
    value={
        "id": "evt_1234567890",
        "object": "event",
        "type": "customer.subscription.updated",
        "created": 1761220800,
        "data": {"object": {"id": "sub_1234567890", "object": "subscription", "customer": "cus_1234567890"}},
    },
    request_only=True,
)


class CheckoutBody(serializers.Serializer[Any]):
    price_id = PatternField(r"^[A-Za-z0-9_]{1,255}\Z", help_text="The price of a plan, price_….")


class PageAnswer(serializers.Serializer[Any]):
    """A page of Stripe's to send the person to."""

    session_id = serializers.CharField()
    url = serializers.CharField()


class CancelBody(serializers.Serializer[Any]):
    cancel_at_period_end = serializers.BooleanField(default=True, help_text="False: at once.")


class PlanItem(serializers.Serializer[Any]):
    """0 is no limit."""

    name = serializers.CharField()
    stripe_price_id = serializers.CharField(allow_null=True)
    max_domains = serializers.IntegerField()
    max_mailboxes = serializers.IntegerField()
    max_messages_a_day = serializers.IntegerField()


class SubscriptionItem(serializers.Serializer[Any]):
    """Without a subscription the status is `none`, and all but the plan is empty."""

    id = serializers.CharField(allow_null=True)
    organization_id = serializers.IntegerField()
    status = serializers.CharField()
    price_id = serializers.CharField(allow_null=True)
    plan = PlanItem(allow_null=True)
    current_period_end = serializers.DateTimeField(allow_null=True)
    cancel_at_period_end = serializers.BooleanField()


class UsageItem(serializers.Serializer[Any]):
    domains = serializers.IntegerField()
    mailboxes = serializers.IntegerField()
    messages_today = serializers.IntegerField()


class OrganizationBilling(serializers.Serializer[Any]):
    organization_id = serializers.IntegerField()
    organization_name = serializers.CharField()
    stripe_customer_id = serializers.CharField(allow_null=True)
    subscription = SubscriptionItem()
    usage = UsageItem()


class Received(serializers.Serializer[Any]):
    received = serializers.BooleanField()
    detail = serializers.CharField()


class BillingView(APIView):
    """What all of them have in common: whose billing it is, and what Stripe's trouble is answered with."""

    def organization(self, request: Request, *, to_change: bool = True) -> Organization:
        user = cast(User, request.user)
        if user.organization is None:
            return self._named(request, user)
        if to_change and not (user.is_organization_admin or user.is_staff or user.is_superuser):
            raise PermissionDenied("Billing is for admins of the organization.")
        return user.organization

    def _named(self, request: Request, user: User) -> Organization:
        """Staff of the platform say which one is meant, unless there is only one."""
        if not (user.is_staff or user.is_superuser):
            raise problems.Conflict("The account belongs to no organization, so there is nothing to bill.")
        text = request.query_params.get("organization_id", "")
        if text.isascii() and text.isdigit() and len(text) < 19:
            found = Organization.objects.filter(pk=int(text)).first()
            if found is None:
                raise NotFound(f"There is no organization {text}.")
            return found
        rows = list(Organization.objects.order_by("pk")[:2])
        if len(rows) != 1:
            raise ValidationError({"organization_id": "Say which organization is meant: the account belongs to none."})
        return rows[0]

    def handle_exception(self, exc: Exception) -> Response:
        return super().handle_exception(_translated(exc))


def _translated(error: Exception) -> Exception:
    if isinstance(error, stripe_api.NotConfigured):
        return problems.ServiceUnavailable(NOT_CONFIGURED)
    if isinstance(error, stripe_api.StripeAway):
        return problems.ServiceUnavailable("Stripe cannot be reached just now; try again later.")
    if isinstance(error, stripe_api.StripeRefused):
        return ValidationError({"non_field_errors": [str(error)]})
    return problems.Conflict(str(error)) if isinstance(error, NotPossible) else error


class CheckoutSessionView(BillingView):
    """Subscribe: answers with a page of Stripe's on which to pay."""

    @extend_schema(
        parameters=[ORGANIZATION],
        request=CheckoutBody,
        responses={200: PageAnswer, **REFUSALS},
        examples=[_CHECKOUT, _PAGE],
    )
    def post(self, request: Request) -> Response:
        body = CheckoutBody(data=request.data)
        body.is_valid(raise_exception=True)
        organization = self.organization(request)
        price_id = body.validated_data["price_id"]
        stripe_api.client()
        try:
            checkout.check_price(price_id)
        except NotPossible as error:
            raise ValidationError({"price_id": str(error)}) from None
        return _page(checkout.begin(organization, cast(User, request.user), price_id))


class CustomerPortalView(BillingView):
    """Answers with a page of Stripe's for invoices, cards and changes of plan."""

    @extend_schema(parameters=[ORGANIZATION], responses={200: PageAnswer, **REFUSALS}, examples=[_PAGE])
    def get(self, request: Request) -> Response:
        organization = self.organization(request)
        stripe_api.client()
        return _page(checkout.portal(organization))


class OrganizationBillingView(BillingView):
    """The organization's plan, and how much of it is used."""

    @extend_schema(parameters=[ORGANIZATION], responses={200: OrganizationBilling, **REFUSALS})
    def get(self, request: Request) -> Response:
        organization = self.organization(request, to_change=False)
        _demand_key()
        usage = {
            "domains": Domain.objects.filter(organization=organization).count(),
            "mailboxes": User.objects.filter(organization=organization).count(),
            "messages_today": plans.messages_sent(organization.pk, timezone.now().date()),
        }
        return Response(
            {
                "organization_id": organization.pk,
                "organization_name": organization.name,
                "stripe_customer_id": organization.stripe_customer_id,
                "subscription": _subscription(organization, plans.current(organization.pk)),
                "usage": usage,
            }
        )


class SubscriptionView(BillingView):
    @extend_schema(
        parameters=[ORGANIZATION], responses={200: SubscriptionItem, **REFUSALS}, examples=[_SUBSCRIPTION_ITEM]
    )
    def get(self, request: Request) -> Response:
        organization = self.organization(request, to_change=False)
        _demand_key()
        return Response(_subscription(organization, plans.current(organization.pk)))


class CancelSubscriptionView(BillingView):
    @extend_schema(
        parameters=[ORGANIZATION],
        request=CancelBody,
        responses={200: SubscriptionItem, **REFUSALS},
        examples=[_CANCEL, _SUBSCRIPTION_ITEM],
    )
    def patch(self, request: Request) -> Response:
        body = CancelBody(data=request.data)
        body.is_valid(raise_exception=True)
        organization = self.organization(request)
        stripe_api.client()
        at_end = body.validated_data["cancel_at_period_end"]
        row = checkout.cancel(organization, cast(User, request.user), at_period_end=at_end)
        return Response(_subscription(organization, row))


class ResumeSubscriptionView(BillingView):
    @extend_schema(parameters=[ORGANIZATION], request=None, responses={200: SubscriptionItem, **REFUSALS})
    def patch(self, request: Request) -> Response:
        organization = self.organization(request)
        stripe_api.client()
        return Response(_subscription(organization, checkout.resume(organization, cast(User, request.user))))


class StripeWebhookView(APIView):
    """For Stripe alone: its signature stands for credentials."""

    authentication_classes = ()
    permission_classes = [AllowAny]

    @extend_schema(
        parameters=[SIGNATURE], request=dict[str, Any], responses={200: Received, 503: REFUSALS[503]}, examples=[_EVENT]
    )
    def post(self, request: Request) -> Response:
        body = request._request.body
        try:
            event = stripe_api.verified_event(body, request.headers.get("Stripe-Signature", ""))
            words = events.apply(event)
        except stripe_api.NotConfigured:
            raise problems.ServiceUnavailable("STRIPE_WEBHOOK_SECRET is missing on this server.") from None
        except stripe_api.WrongSignature:
            raise ValidationError({"Stripe-Signature": "The signature is wrong, or older than five minutes."}) from None
        except ValueError as error:
            words = str(error) if isinstance(error, events.NoEvent) else "the body is not valid JSON"
            raise ValidationError(f"This is no event of Stripe's: {words}.") from None
        log.info("billing.event", kind=event.get("type"), event_id=event.get("id"), outcome=words)
        return Response({"received": True, "detail": words})


def _demand_key() -> None:
    stripe_api.client()


def _page(page: checkout.Page) -> Response:
    return Response({"session_id": page.id, "url": page.url})


def _subscription(organization: Organization, row: Subscription | None) -> dict[str, Any]:
    plan = plans.plan_of(organization.pk)
    return {
        "id": row.stripe_subscription_id if row else None,
        "organization_id": organization.pk,
        "status": (row.status or "incomplete") if row else "none",
        "price_id": (row.stripe_price_id or None) if row else None,
        "plan": _plan(plan) if plan else None,
        "current_period_end": row.current_period_end if row else None,
        "cancel_at_period_end": row.cancel_at_period_end if row else False,
    }


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "name": plan.name,
        "stripe_price_id": plan.stripe_price_id,
        "max_domains": plan.max_domains,
        "max_mailboxes": plan.max_mailboxes,
        "max_messages_a_day": plan.max_messages_a_day,
    }
