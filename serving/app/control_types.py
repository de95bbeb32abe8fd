"""Which types the bodies and answers of the control port have, by the names its description uses."""

from collections.abc import Mapping
from typing import Any, Final

from serving.access import orders, state
from serving.audit import desk as audit
from serving.control import rollout_desk, uploading
from serving.control.changes import Applied, ApplyOrder
from serving.control.policyhistory import PolicyEntries
from serving.edge.admin.privacy import ErasureOrder, HoldOrder
from serving.governance import desk as governance
from serving.registry import desk as registry
from serving.registry.entities import Traffic

TYPES: Final[Mapping[str, Any]] = {
    "Explanation": orders.Explanation,
    "KeyOrder": orders.KeyOrder,
    "MadeKey": orders.MadeKey,
    "RotationOrder": orders.RotationOrder,
    "Rule": state.Rule,
    "RuleOrder": orders.RuleOrder,
    "Revocation": state.Revocation,
    "RevocationOrder": orders.RevocationOrder,
    "ErasureOrder": ErasureOrder,
    "HoldOrder": HoldOrder,
    "PolicyEntries": PolicyEntries,
    "Traffic": Traffic,
    "Applied": Applied,
    "ApplyOrder": ApplyOrder,
    **registry.TYPES,
    **governance.TYPES,
    **audit.TYPES,
    **uploading.TYPES,
    **rollout_desk.TYPES,
}
