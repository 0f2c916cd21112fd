"""The suite against kube-apiserver, of both versions."""

from tests.testbed.assumptions.conftest import assumed, here  # noqa: F401
from tests.testbed.contract.suite.lists import *  # noqa: F403
from tests.testbed.contract.suite.objects import *  # noqa: F403
from tests.testbed.contract.suite.patches import *  # noqa: F403
