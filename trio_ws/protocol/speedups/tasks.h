/* Checks for a cancellation without a checkpoint, waits of a task, and the first step of a coroutine. As
   _checkpoint.py, _wait.py and rpc/inline_call.py. */

PyDoc_STRVAR(watch_task_doc, "watch_task($module, context, task_type, status_type, runner_type, /)\n--\n\n"
                             "Return whether passed_checkpoint can be used. See websocket/_checkpoint.py.");

static PyObject *
watch_task(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const char *const names[SLOTS] = {"_cancel_status", "_cancel_points", "_runner", "effectively_cancelled",
                                             "ki_pending"};
    static const int owners[SLOTS] = {0, 0, 0, 1, 2};
    module_state *state = PyModule_GetState(module);
    int found = 1;

    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "watch_task() takes a context and three classes");
        return NULL;
    }
#ifdef Py_GIL_DISABLED
    Py_RETURN_FALSE; /* the state of the module would be shared by threads */
#endif
    for (int i = 0; i < SLOTS && found > 0; i++)
        found = find_slot(&state->slots[i], args[1 + owners[i]], names[i]);
    Py_CLEAR(state->attributes);
    if (found > 0)
        Py_XSETREF(state->context, Py_NewRef(args[0]));
    else
        Py_CLEAR(state->context);
    return found < 0 ? NULL : PyBool_FromLong(found);
}

/* Return the current task, borrowed; NULL if there is none, or with an exception. The look-up of a thread-local
   attribute takes longer than all the rest of passed_checkpoint. */
static PyObject *
current_task(module_state *state)
{
    uint64_t thread = PyThreadState_GetID(PyThreadState_Get());

    if (state->attributes == NULL || state->thread != thread) {
        Py_XSETREF(state->attributes, PyObject_GetAttrString(state->context, "__dict__"));
        if (state->attributes == NULL)
            return NULL;
        state->thread = thread;
    }
    return PyDict_GetItemWithError(state->attributes, state->task);
}

PyDoc_STRVAR(passed_checkpoint_doc, "passed_checkpoint($module, /)\n--\n\n"
                                    "See python_passed_checkpoint in websocket/_checkpoint.py.");

/* Return whether the current task passes, or -1 with an exception. */
static int
task_passes(module_state *state)
{
    PyObject *task, **status, **runner, **value, **points, *next;
    long count;

    task = state->context == NULL ? NULL : current_task(state);
    if (task == NULL)
        return PyErr_Occurred() ? -1 : 0;
    status = in_slot(&state->slots[STATUS], task);
    runner = in_slot(&state->slots[RUNNER], task);
    points = in_slot(&state->slots[POINTS], task);
    if (status == NULL || (value = in_slot(&state->slots[CANCELLED], *status)) == NULL || *value != Py_False ||
        (value = in_slot(&state->slots[INTERRUPTED], *runner)) == NULL || *value != Py_False || *points == NULL)
        return 0;
    count = PyLong_AsLong(*points);
    next = PyErr_Occurred() ? NULL : PyLong_FromLong(count + 1);
    if (next == NULL)
        return -1;
    Py_SETREF(*points, next);
    return 1;
}

static PyObject *
passed_checkpoint(PyObject *module, PyObject *unused)
{
    int passes = task_passes(PyModule_GetState(module));

    return passes < 0 ? NULL : PyBool_FromLong(passes);
}

PyDoc_STRVAR(watch_waits_doc, "watch_waits($module, wait_task_rescheduled, trap_type, name, outcome_type, /)\n--\n\n"
                              "See websocket/_wait.py.");

static PyObject *
watch_waits(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    module_state *state = PyModule_GetState(module);
    int found;

    if (count != 4 || !PyType_Check(args[1]) || !PyUnicode_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "watch_waits() takes a function, two classes and a name");
        return NULL;
    }
    found = find_slot(&state->outcome_value, args[3], "value");
    if (found <= 0)
        return found < 0 ? NULL : PyErr_Format(PyExc_TypeError, "%R has no slot", args[3]);
    Py_XSETREF(state->wait, Py_NewRef(args[0]));
    Py_XSETREF(state->trap, (PyTypeObject *)Py_NewRef(args[1]));
    Py_XSETREF(state->abort_name, Py_NewRef(args[2]));
    Py_RETURN_NONE;
}

/* Return what a task yields to trio to wait. */
static PyObject *
new_trap(module_state *state, PyObject *abort)
{
    PyObject *trap = PyBaseObject_Type.tp_new(state->trap, state->no_args, NULL);

    /* Its class is frozen, and its own constructor does the same. */
    if (trap != NULL && PyObject_GenericSetAttr(trap, state->abort_name, abort) < 0)
        Py_CLEAR(trap);
    return trap;
}

/* Return what a wait ends with. Of our outcomes, that is their value. */
static PyObject *
unwrap(module_state *state, PyObject *outcome)
{
    const slot *where = &state->outcome_value;
    PyObject *value = NULL;

    if (PyObject_TypeCheck(outcome, where->type))
        value = *(PyObject **)((char *)outcome + where->offset);
    return value != NULL ? Py_NewRef(value) : PyObject_CallMethodNoArgs(outcome, state->unwrap);
}

/* Raise the StopIteration with which an iterator returns the result. Takes the reference to it. */
static PyObject *
stop_iteration(PyObject *result)
{
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result);

    Py_DECREF(result);
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
    return NULL;
}

/* Call a method of the coroutine in which an awaitable goes on. */
static PyObject *
throw_into(PyObject *coroutine, PyObject *args)
{
    PyObject *throw = PyObject_GetAttrString(coroutine, "throw"), *result;

    result = throw == NULL ? NULL : PyObject_CallObject(throw, args);
    Py_XDECREF(throw);
    return result;
}

/* The coroutine of trio's wait_task_rescheduled, and the generator in it. */
typedef struct {
    PyObject_HEAD
    PyObject *abort; /* NULL once it has ended */
    char waits;
} task_wait;

PyDoc_STRVAR(wait_task_doc, "wait_task($module, abort, /)\n--\n\n"
                            "See websocket/_wait.py.");

static PyObject *
wait_task(PyObject *module, PyObject *abort)
{
    module_state *state = PyModule_GetState(module);
    task_wait *wait = PyObject_GC_New(task_wait, state->task_wait);

    if (wait == NULL)
        return NULL;
    wait->abort = Py_NewRef(abort);
    wait->waits = 0;
    PyObject_GC_Track(wait);
    return (PyObject *)wait;
}

static int
task_wait_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((task_wait *)self)->abort);
    return 0;
}

static int
task_wait_clear(PyObject *self)
{
    Py_CLEAR(((task_wait *)self)->abort);
    return 0;
}

static PySendResult
task_wait_step(PyObject *self, PyObject *value, PyObject **result)
{
    module_state *state = PyType_GetModuleState(Py_TYPE(self));
    task_wait *wait = (task_wait *)self;

    *result = NULL;
    if (wait->abort == NULL)
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    else if (wait->waits) {
        Py_CLEAR(wait->abort);
        *result = unwrap(state, value);
    }
    else if (value != Py_None)
        PyErr_SetString(PyExc_TypeError, "can't send non-None value to a just-started coroutine");
    else if (state->trap != NULL) {
        *result = new_trap(state, wait->abort);
        wait->waits = *result != NULL;
        return *result == NULL ? PYGEN_ERROR : PYGEN_NEXT;
    }
    else
        PyErr_SetString(PyExc_RuntimeError, "watch_waits() was not called");
    return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
}

static PyObject *
task_wait_send(PyObject *self, PyObject *value)
{
    PyObject *result;
    PySendResult step = task_wait_step(self, value, &result);

    return step == PYGEN_RETURN ? stop_iteration(result) : result;
}

static PyObject *
task_wait_iternext(PyObject *self)
{
    return task_wait_send(self, Py_None);
}

/* The coroutine, which has not begun, raises what is thrown into it. */
static PyObject *
task_wait_throw(PyObject *self, PyObject *args)
{
    module_state *state = PyType_GetModuleState(Py_TYPE(self));
    task_wait *wait = (task_wait *)self;
    PyObject *coroutine = NULL, *result;

    if (wait->abort == NULL || state->wait == NULL)
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    else
        coroutine = PyObject_CallOneArg(state->wait, wait->abort);
    result = coroutine == NULL ? NULL : throw_into(coroutine, args);
    Py_XDECREF(coroutine);
    Py_CLEAR(wait->abort);
    return result;
}

static PyObject *
task_wait_close(PyObject *self, PyObject *unused)
{
    Py_CLEAR(((task_wait *)self)->abort);
    Py_RETURN_NONE;
}

static PyObject *
task_wait_await(PyObject *self)
{
    task_wait *wait = (task_wait *)self;

    if (!wait->waits || wait->abort == NULL)
        return Py_NewRef(self);
    PyErr_SetString(PyExc_RuntimeError, "coroutine is being awaited already");
    return NULL;
}

static PyMethodDef task_wait_methods[] = {
    {"send", task_wait_send, METH_O, NULL},
    {"throw", task_wait_throw, METH_VARARGS, NULL},
    {"close", task_wait_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot task_wait_slots[] = {
    {Py_am_await, task_wait_await},
    {Py_am_send, task_wait_step},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, task_wait_iternext},
    {Py_tp_methods, task_wait_methods},
    {Py_tp_traverse, task_wait_traverse},
    {Py_tp_clear, task_wait_clear},
    {Py_tp_dealloc, free_tracked},
    {0, NULL},
};

static PyType_Spec task_wait_spec = {
    .name = "trio_ws.protocol._speedups.task_wait",
    .basicsize = sizeof(task_wait),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = task_wait_slots,
};

/* Run a coroutine in a context until it ends or first waits. Return which, with what it has returned or yielded in *value,
   or NULL there with an exception. */
static PySendResult
step_in(PyObject *context, PyObject *coroutine, PyObject **value)
{
    PySendResult step;

    *value = NULL;
    if (PyContext_Enter(context) < 0)
        return PYGEN_ERROR;
    /* No StopIteration is made, which would cost as much as all the rest. */
    step = PyIter_Send(coroutine, Py_None, value);
    if (PyContext_Exit(context) < 0)
        Py_CLEAR(*value);
    return step;
}

PyDoc_STRVAR(first_step_doc, "first_step($module, context, coroutine, /)\n--\n\n"
                             "See rpc/inline_call.py.");

static PyObject *
first_step(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    PyObject *value, *step;
    int ended;

    if (count != 2 || !PyContext_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "first_step() takes a context and a coroutine");
        return NULL;
    }
    ended = step_in(args[0], args[1], &value) == PYGEN_RETURN;
    step = value == NULL ? NULL : PyTuple_Pack(2, ended ? Py_True : Py_False, value);
    Py_XDECREF(value);
    return step;
}
