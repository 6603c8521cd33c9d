"""Pods, and the kubelet that starts and ends them. Made by the world."""

from typing import TYPE_CHECKING

from concertina_operator.observed import Phase, PodFacts
from tests.simulation.agent import Agent
from tests.simulation.api_server import API
from tests.simulation.network import Place

if TYPE_CHECKING:
    from tests.simulation.world import World


class Pod:
    """One pod: its object's shadow on the node, its agent, its workers."""

    def __init__(self, world: "World", facts: PodFacts) -> None:
        self.world = world
        self.kernel = world.kernel
        self.name, self.uid = facts.name, facts.uid
        self.place = Place(uid=facts.uid)
        self.agent: Agent | None = None
        self.node_is_dead = False
        self.removed = False
        """Its object is gone; the kubelet will see that when it can."""
        self._killed_at: float | None = None

    @property
    def runs(self) -> bool:
        """Whether anything in it runs, or could."""
        return self.agent is not None and not self.agent.ended

    def start(self) -> None:
        """It found a node; its containers start after a while."""
        if self.removed or self.node_is_dead:
            return
        self.world.api.change_pod(self.name, placed=True, addresses=())
        self.kernel.after(self.kernel.some(0.1, 3.0), self._run)

    def delete(self, facts: PodFacts) -> None:
        """The object was marked, or is gone: the kubelet hears of it when it can."""
        self.removed = self.removed or not facts.grace_seconds or not facts.placed
        self.kernel.after(self.kernel.some(0.01, 0.5), self._obey, float(facts.grace_seconds or 0))

    def kill(self, code: int = 137) -> None:
        """All processes end now."""
        if self.agent is not None and not self.agent.ended:
            self.agent.killed(code)

    def ended(self, code: int) -> None:
        """The trainer container has ended."""
        self.world.bad_ends += bool(code)
        if not self.node_is_dead:
            self._tell(code)

    def node_died(self) -> None:
        """No process and no kubelet is left; the cluster removes the object after a while."""
        self.node_is_dead = True
        self.kill()
        self.kernel.after(self.kernel.some(20.0, 90.0), self._remove)

    def _run(self) -> None:
        if not (self.removed or self.node_is_dead or self._killed_at is not None):
            self.world.api.change_pod(self.name, phase=Phase.RUNNING)
            self.agent = Agent(self)

    def _reaches_api(self) -> bool:
        return self.world.api.up and self.world.network.reaches(self.uid, API)

    def _obey(self, grace: float) -> None:
        if self.node_is_dead:
            return
        if not self._reaches_api():
            self.kernel.after(1.0, self._obey, grace)
            return
        if self.agent is None:
            self._killed_at = self.kernel.now
            self._remove()
        elif self.agent.ended:
            self.kernel.after(self.kernel.some(0.01, 1.0), self._remove)
        elif grace:
            self.agent.told_to_end(grace)
            self.kernel.after(grace, self.kill)
        else:
            self.kill()

    def _tell(self, code: int) -> None:
        """The kubelet writes the end of the container, as soon as it reaches the server."""
        if self.node_is_dead:
            return
        if not self._reaches_api():
            self.kernel.after(1.0, self._tell, code)
            return
        stored = self.world.api.objects["pod"].get(self.name)
        if stored is None or stored.value.uid != self.uid:
            return
        phase = Phase.FAILED if code else Phase.SUCCEEDED
        self.world.api.change_pod(self.name, exit_code=code, phase=phase)
        if stored.value.deleting:
            self.kernel.after(self.kernel.some(0.01, 1.0), self._remove)

    def _remove(self) -> None:
        """The kubelet confirms that nothing runs; another pod may have the name by now."""
        stored = self.world.api.objects["pod"].get(self.name)
        if stored is not None and stored.value.uid == self.uid:
            self.world.api.remove_pod(self.name)
