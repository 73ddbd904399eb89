/* Checks for a cancellation without a checkpoint, and the first step of a coroutine. As _checkpoint.py and
   rpc/inline_call.py. */

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

PyDoc_STRVAR(first_step_doc, "first_step($module, context, coroutine, /)\n--\n\n"
                             "See rpc/inline_call.py.");

static PyObject *
first_step(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    PyObject *value = NULL, *step;
    int ended;

    if (count != 2 || !PyContext_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "first_step() takes a context and a coroutine");
        return NULL;
    }
    if (PyContext_Enter(args[0]) < 0)
        return NULL;
    /* No StopIteration is made, which would cost as much as all the rest. */
    ended = PyIter_Send(args[1], Py_None, &value) == PYGEN_RETURN;
    if (PyContext_Exit(args[0]) < 0)
        Py_CLEAR(value);
    step = value == NULL ? NULL : PyTuple_Pack(2, ended ? Py_True : Py_False, value);
    Py_XDECREF(value);
    return step;
}
