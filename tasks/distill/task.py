"""Tasks that can learn from a teacher."""

from data.base import SuiteData
from tasks.distill.load import teacher_of
from tasks.distill.teacher import Teacher
from tasks.engine.task import TaskModule


class DistillableTask(TaskModule):
    """A task whose losses use the outputs of `teacher=`, if one is given. It is loaded before training starts."""

    teacher: Teacher | None = None

    def check(self, data: SuiteData) -> None:
        if self.config["teacher"]:
            self.teacher = teacher_of(self, data)

    def setup(self, stage: str) -> None:
        if stage == "fit" and not self.teacher:
            self.check(self.data)
