"""scikit-learn's callbacks on our epochs.

From version 1.9 on scikit-learn has an experimental protocol of callbacks (``set_callbacks`` and
the hooks ``setup``, ``on_fit_task_begin``, ``on_fit_task_end`` and ``teardown``). What an estimator
needs for it is imported here and nowhere else. For older versions this file brings the same methods
with the same hooks, without what scikit-learn's meta-estimators do with them.
"""

import copy
import inspect
from collections import defaultdict
from contextlib import contextmanager

try:
    from sklearn.callback import CallbackSupportMixin

    def _teardown(estimator):
        """Leave it to the decorator of ``fit``, which does it."""

except ImportError:

    class CallbackSupportMixin:
        """Callbacks for an estimator where scikit-learn has none."""

        def set_callbacks(self, *callbacks):
            """Set the callbacks of the estimator; none takes them away.

            Parameters
            ----------
            *callbacks : callback instances
                Objects with methods ``setup``, ``on_fit_task_begin``, ``on_fit_task_end`` and
                ``teardown``, as from scikit-learn 1.9 on.

            Returns
            -------
            self : estimator
                The estimator.

            Raises
            ------
            TypeError
                When an object lacks one of the methods.
            """
            hooks = ("setup", "on_fit_task_begin", "on_fit_task_end", "teardown")
            for callback in callbacks:
                if isinstance(callback, type) or not all(hasattr(callback, h) for h in hooks):
                    raise TypeError(f"callbacks must be instances with {hooks}, found {callback!r}")
            self._skl_callbacks = list(callbacks)
            return self

        def _init_callback_context(self, task_name="fit", max_subtasks=0):
            context = _Context(self._skl_callbacks, type(self).__name__, task_name, max_subtasks)
            self._callback_fit_ctx = context
            for callback in self._skl_callbacks:
                context.to_teardown.append(callback)
                callback.setup(estimator=self, context=context)
            return context

    class _Context:
        """The place of a task in the tree of tasks."""

        def __init__(self, callbacks, estimator_name, task_name, max_subtasks, parent=None):
            self._callbacks = callbacks
            self.estimator_name = estimator_name
            self.task_name = task_name
            self.max_subtasks = max_subtasks
            self.parent = parent
            self.task_id = 0
            self._n_children = 0
            self.to_teardown = []

        def subcontext(self, task_name="", max_subtasks=0):
            child = _Context(self._callbacks, self.estimator_name, task_name, max_subtasks, self)
            child.task_id = self._n_children
            self._n_children += 1
            return child

        def call_on_fit_task_begin(self, *, estimator, **values):
            self._call("on_fit_task_begin", estimator, values)
            return self

        def call_on_fit_task_end(self, *, estimator, **values):
            return self._call("on_fit_task_end", estimator, values)

        def _call(self, hook, estimator, values):
            """Call a hook of every callback with what its signature names."""
            results = []
            for callback in self._callbacks:
                method = getattr(callback, hook)
                names = [
                    parameter.name
                    for parameter in inspect.signature(method).parameters.values()
                    if parameter.kind == parameter.KEYWORD_ONLY
                ]
                given = {name: values.get(name) for name in names}
                if "fitted_estimator" in given and "reconstruction_attributes" in values:
                    given["fitted_estimator"] = fitted = copy.copy(estimator)
                    vars(fitted).update(values["reconstruction_attributes"]())
                results.append(bool(method(estimator, self, **given)))
            return any(results)

    def _teardown(estimator):
        """Call the last hook of every callback, as scikit-learn's decorator of ``fit`` does."""
        if hasattr(estimator, "_callback_fit_ctx"):
            context = vars(estimator).pop("_callback_fit_ctx")
            for callback in context.to_teardown:
                callback.teardown(estimator=estimator, context=context)


@contextmanager
def epochs(estimator, X, max_iter):
    """Give what lets the estimator's callbacks watch the trainings of a fit.

    Parameters
    ----------
    estimator : estimator
    X : ndarray or CSR matrix
        The rows that are trained on.
    max_iter : int
        The largest number of epochs, of all trainings together.

    Yields
    ------
    watch : callable
        ``watch(engine, report, history)`` returns the engine's ``on_epoch`` for a training, where
        ``report`` is another to be called first, or None, and ``history`` is what the training goes
        on from, a dict of lists.
    """
    if not getattr(estimator, "_skl_callbacks", None):
        yield lambda engine, report, history: report
        return
    try:
        fit = estimator._init_callback_context(max_subtasks=max_iter)
        fit.call_on_fit_task_begin(estimator=estimator, X=X)
        calls = _Epochs(estimator, X, fit)
        yield calls.of
        fit.call_on_fit_task_end(
            estimator=estimator, X=X, reconstruction_attributes=calls.attributes
        )
    finally:
        _teardown(estimator)


class _Epochs:
    """Calls the callbacks before and after each epoch; they may stop the training.

    After the last epoch of a training that has converged one more is announced, which is the first
    of the next training or is not run.
    """

    def __init__(self, estimator, X, fit):
        self.estimator, self.X, self.fit = estimator, X, fit
        self.task, self.n_done = None, 0

    def of(self, engine, report, history):
        """Return itself, ready for the training of an engine."""
        self.engine, self.report = engine, report
        self.history = defaultdict(list, copy.deepcopy(history))
        if self.task is None:
            self.begin()
        return self

    def begin(self):
        self.task = self.fit.subcontext(task_name="epoch")
        self.task.call_on_fit_task_begin(estimator=self.estimator, X=self.X)

    def __call__(self, epoch, figures):
        """Return whether to stop after this epoch."""
        for name, value in figures.items():
            self.history[name].append(value)
        stop = self.report is not None and bool(self.report(epoch, figures))
        task, self.task = self.task, None
        stop |= task.call_on_fit_task_end(
            estimator=self.estimator,
            X=self.X,
            reconstruction_attributes=self.attributes,
        )
        self.n_done += 1
        if not stop and self.n_done < self.fit.max_subtasks:
            self.begin()
        return stop

    def attributes(self):
        """Return what makes a copy of the estimator one that is fitted up to now."""
        return {
            "_engine": copy.deepcopy(self.engine),
            "history_": copy.deepcopy(dict(self.history)),
            "loss_curve_": list(self.history["loss"]),
            "n_iter_": len(self.history["loss"]),
        }
