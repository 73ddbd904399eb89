/* Calls of one connection: a plain call of this side is sent, and one that came alone is answered. As rpc/outgoing.py,
   rpc/session.py and rpc/incoming.py, which do all that is not so common. */

/* The fields of PlainCalls in codecs/base.py. */
enum { ENCODE_FIELD = 1, FRAME_FIELD = 2, REQUEST_FIELD = 3 };

/* Requests of this size and more are sent by the general code. */
#define LARGE_REQUEST 4096

PyDoc_STRVAR(watch_requests_doc,
             "watch_requests($module, outgoing_type, transport_type, buffer_type, call_type, current_task, /)\n--\n\n"
             "Tell begin_call about these classes, of which the last two are WriteBuffer and PendingCall, and about trio's\n"
             "function.");

static PyObject *
watch_requests(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    enum { OUTGOING, PACKETS, WRITTEN, CALL, FUNCTION_OF_TRIO, ARGUMENTS_HERE };
    static const struct {
        int owner;
        const char *name;
    } names[REQUEST_PLACES] = {
        [REQUEST_TRANSPORT] = {OUTGOING, "transport"},
        [REQUEST_PENDING] = {OUTGOING, "pending_calls"},
        [REQUEST_ID] = {OUTGOING, "_next_id"},
        [REQUEST_BURST] = {OUTGOING, "burst_size"},
        [REQUEST_PLAIN] = {PACKETS, "plain_requests"},
        [REQUEST_CLOSING] = {PACKETS, "closing"},
        [REQUEST_WRITTEN] = {PACKETS, "write_buffer"},
        [REQUEST_HIGH_WATER] = {PACKETS, "high_water"},
        [REQUEST_SENT] = {WRITTEN, "bytes_sent"},
        [PENDING_ID] = {CALL, "call_id"},
        [PENDING_OUTGOING] = {CALL, "outgoing"},
        [PENDING_TASK] = {CALL, "task"},
        [PENDING_OFFSET] = {CALL, "sent_offset"},
    };
    module_state *state = PyModule_GetState(module);
    int found = count == ARGUMENTS_HERE;

    for (int i = 0; i < REQUEST_PLACES && found > 0; i++)
        found = find_slot(&state->request_places[i], args[names[i].owner], names[i].name);
    if (found == 0)
        PyErr_Format(PyExc_TypeError, "watch_requests() takes %d classes with slots, and a function", FUNCTION_OF_TRIO);
    if (found <= 0)
        return NULL;
    Py_XSETREF(state->ask_for_task, Py_NewRef(args[FUNCTION_OF_TRIO]));
    Py_RETURN_NONE;
}

/* Whether no value is a stream, as _SCALAR_TYPES in rpc/outgoing.py says. */
static int
are_scalars(PyObject *values)
{
    int scalars = 1;

    for (Py_ssize_t i = 0; scalars && i < PyTuple_GET_SIZE(values); i++) {
        PyObject *value = PyTuple_GET_ITEM(values, i);

        scalars = PyLong_CheckExact(value) || PyUnicode_CheckExact(value) || value == Py_None || PyBool_Check(value) ||
                  PyFloat_CheckExact(value) || PyBytes_CheckExact(value) || PyList_CheckExact(value) ||
                  PyTuple_CheckExact(value) || PyDict_CheckExact(value);
    }
    return scalars;
}

/* Return the frame of a request, or NULL with an exception. */
static PyObject *
encode_request(PyObject *plain, PyObject *method, PyObject *values, PyObject *call_id, PyObject *key)
{
    PyObject *encoded, *parts[4] = {method, NULL, call_id, key}, *frame = NULL;

    Py_INCREF(plain);
    encoded = parts[1] = PyObject_CallOneArg(PyTuple_GET_ITEM(plain, ENCODE_FIELD), values);
    if (encoded != NULL && call_id != NULL)
        frame = PyObject_Vectorcall(PyTuple_GET_ITEM(plain, REQUEST_FIELD), parts, 4, NULL);
    Py_XDECREF(encoded);
    Py_DECREF(plain);
    if (frame != NULL && !PyBytes_CheckExact(frame)) {
        Py_CLEAR(frame);
        PyErr_SetString(PyExc_TypeError, "a frame is bytes");
    }
    return frame;
}

/* Return a new PendingCall of this task. */
static PyObject *
new_pending(module_state *state, PyObject *outgoing, PyObject *call_id)
{
    const slot *at = state->request_places;
    PyObject *task = state->context == NULL ? NULL : Py_XNewRef(current_task(state));
    PyObject *call = PyType_GenericAlloc(at[PENDING_ID].type, 0);

    if (task == NULL && !PyErr_Occurred())
        task = PyObject_CallNoArgs(state->ask_for_task);
    if (call != NULL && task != NULL) {
        set_value(&at[PENDING_ID], call, call_id);
        set_value(&at[PENDING_OUTGOING], call, outgoing);
        set_value(&at[PENDING_TASK], call, task);
    }
    else
        Py_CLEAR(call);
    Py_XDECREF(task);
    return call;
}

/* Send a frame with those of other callers that the last read has woken, or alone. Return -1 with an exception. */
static int
send_with_others(module_state *state, PyObject *outgoing, PyObject *written, PyObject *frame)
{
    const slot *burst = &state->request_places[REQUEST_BURST];
    Py_ssize_t others = number_in(burst, outgoing);
    PyObject *none;

    if (set_number(burst, outgoing, others > 1 ? others - 1 : 0) < 0)
        return -1;
    if (others > 1)
        return buffer_in(state, written, Py_NewRef(frame));
    none = PyObject_CallMethod(written, "write", "O", frame);
    Py_XDECREF(none);
    return none == NULL ? -1 : 0;
}

PyDoc_STRVAR(begin_call_doc, "begin_call($module, outgoing, method, args, key, /)\n--\n\n"
                             "See OutgoingCalls._exchange.");

static PyObject *
begin_call(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    module_state *state = PyModule_GetState(module);
    const slot *at = state->request_places;
    PyObject *outgoing, *transport, *plain, *written, *pending, *call_id, *frame, *call = NULL, *abort = NULL, *wait = NULL;
    Py_ssize_t waiting, number;

    if (count != 4 || !PyTuple_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "begin_call() takes calls, a method, a tuple and a key");
        return NULL;
    }
    outgoing = args[0];
    transport = value_in(&at[REQUEST_TRANSPORT], outgoing);
    plain = value_in(&at[REQUEST_PLAIN], transport);
    written = value_in(&at[REQUEST_WRITTEN], transport);
    waiting = number_in(&state->places[SIZE], written);
    number = number_in(&at[REQUEST_ID], outgoing);
    if (plain == NULL || !PyTuple_Check(plain) || PyTuple_GET_SIZE(plain) <= REQUEST_FIELD || state->open == NULL ||
        value_in(&state->places[STATE], value_in(&at[REQUEST_CLOSING], transport)) != state->open ||
        waiting < 0 || waiting >= number_in(&at[REQUEST_HIGH_WATER], transport) || !are_scalars(args[2]) ||
        number < 0 || number == PY_SSIZE_T_MAX)
        Py_RETURN_NONE;
    call_id = PyUnicode_FromFormat("%zd", number + 1);
    frame = encode_request(plain, args[1], args[2], call_id, args[3]);
    if (frame == NULL || PyBytes_GET_SIZE(frame) >= LARGE_REQUEST) {
        Py_XDECREF(call_id);
        Py_XDECREF(frame);
        if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception))
            return NULL;
        PyErr_Clear(); /* the general code explains what cannot be encoded */
        Py_RETURN_NONE;
    }
    Py_INCREF(written);
    pending = value_in(&at[REQUEST_PENDING], outgoing);
    if (pending != NULL && PyDict_CheckExact(pending) && PyDict_GET_SIZE(pending) == 0 &&
        call_method(outgoing, state->first_call, NULL) == 0)
        pending = value_in(&at[REQUEST_PENDING], outgoing);
    if (!PyErr_Occurred() && pending != NULL && PyDict_CheckExact(pending))
        call = new_pending(state, outgoing, call_id);
    if (call != NULL && (abort = PyObject_GetAttr(call, state->abort)) != NULL)
        wait = wait_task(module, abort);
    if (wait != NULL) {
        if (PyDict_SetItem(pending, call_id, call) < 0 || set_number(&at[REQUEST_ID], outgoing, number + 1) < 0 ||
            send_with_others(state, outgoing, written, frame) < 0 ||
            set_number(&at[PENDING_OFFSET], call,
                       number_in(&at[REQUEST_SENT], written) + number_in(&state->places[SIZE], written)) < 0)
            Py_CLEAR(wait);
    }
    else if (!PyErr_Occurred())
        PyErr_SetString(PyExc_TypeError, "the pending calls are a dict");
    Py_XDECREF(abort);
    Py_XDECREF(call);
    Py_DECREF(written);
    Py_DECREF(frame);
    Py_DECREF(call_id);
    return wait;
}

#ifdef HAS_SOCKETS

/* What start_call has done; as in rpc/inline_call.py. */
enum { ANSWERED, RETURNED, WAITS, FAILED };

/* ASYNC in rpc/methods.py, where PLAIN is 0. */
#define ASYNC_METHOD 1

/* The arguments of a method that start_call passes on, at most: those that take_args reads. */
#define MOST_ARGS 15

PyDoc_STRVAR(watch_calls_doc,
             "watch_calls($module, session_type, transport_type, incoming_type, outgoing_type, method_type, buffer_type, /)\n"
             "--\n\n"
             "Tell start_call about these classes; the last is ReceiveBuffer.");

static PyObject *
watch_calls(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    enum { SESSION, PACKETS, INCOMING, OUTGOING, METHOD, RECEIVED, CLASSES };
    static const struct {
        int owner;
        const char *name;
    } names[CALL_PLACES] = {
        [SESSION_DRIVEN] = {SESSION, "reader_driven"},
        [SESSION_UNDECIDED] = {SESSION, "undecided"},
        [SESSION_TRANSPORT] = {SESSION, "transport"},
        [SESSION_INCOMING] = {SESSION, "incoming"},
        [SESSION_OUTGOING] = {SESSION, "outgoing"},
        [TRANSPORT_OVER] = {PACKETS, "over"},
        [TRANSPORT_MEASURED] = {PACKETS, "measured"},
        [TRANSPORT_MEASURED_FROM] = {PACKETS, "measured_from"},
        [TRANSPORT_HIGH_WATER] = {PACKETS, "high_water"},
        [TRANSPORT_BATCH] = {PACKETS, "batch"},
        [TRANSPORT_WRITTEN] = {PACKETS, "write_buffer"},
        [TRANSPORT_READ] = {PACKETS, "receive_buffer"},
        [TRANSPORT_READER] = {PACKETS, "reader"},
        [TRANSPORT_CLOSING] = {PACKETS, "closing"},
        [TRANSPORT_PLAIN] = {PACKETS, "plain_calls"},
        [INCOMING_WAITING] = {INCOMING, "waiting"},
        [INCOMING_ACTIVE] = {INCOMING, "active_calls"},
        [INCOMING_MAX] = {INCOMING, "max_calls"},
        [INCOMING_METHODS] = {INCOMING, "_methods"},
        [INCOMING_LIMIT] = {INCOMING, "_default_limit"},
        [INCOMING_CLOSING] = {INCOMING, "closing"},
        [INCOMING_RUNNING] = {INCOMING, "running"},
        [INCOMING_CONNECTION] = {INCOMING, "connection"},
        [INCOMING_POOL] = {INCOMING, "_pool"},
        [OUTGOING_BURST] = {OUTGOING, "burst_size"},
        [METHOD_PLAIN] = {METHOD, "is_plain"},
        [METHOD_KIND] = {METHOD, "kind"},
        [METHOD_FUNCTION] = {METHOD, "function"},
        [METHOD_TYPES] = {METHOD, "_types"},
        [READ_HELD] = {RECEIVED, "held"},
        [READ_MAX_HELD] = {RECEIVED, "max_held"},
        [READ_RECEIVED] = {RECEIVED, "received"},
    };
    module_state *state = PyModule_GetState(module);
    int found = count == CLASSES;

    for (int i = 0; i < CALL_PLACES && found > 0; i++)
        found = find_slot(&state->call_places[i], args[names[i].owner], names[i].name);
    if (found == 0)
        PyErr_Format(PyExc_TypeError, "watch_calls() takes %d classes with slots", CLASSES);
    return found > 0 ? Py_NewRef(Py_None) : NULL;
}

/* Whether nothing waits, to be written or to be read, and the shared reader may read on: RPCSession._delegate_to_reader
   and what comes before it, where these have nothing to do. */
static int
is_idle(module_state *state, PyObject *transport)
{
    const slot *at = state->call_places, *buffer = state->buffer_places;
    PyObject *written = value_in(&at[TRANSPORT_WRITTEN], transport), *read = value_in(&at[TRANSPORT_READ], transport);
    PyObject *closing = value_in(&at[TRANSPORT_CLOSING], transport), *batch = value_in(&at[TRANSPORT_BATCH], transport);
    Py_ssize_t held = number_in(&at[READ_HELD], read);

    return state->epoll != NULL && value_in(&at[TRANSPORT_OVER], transport) == Py_False &&
           batch != NULL && PyTuple_CheckExact(batch) && PyTuple_GET_SIZE(batch) == 0 &&
           number_in(&buffer[WAITING_SIZE], written) == 0 && value_in(&buffer[FLUSH_DUE], written) == Py_False &&
           number_in(&at[TRANSPORT_HIGH_WATER], transport) > 0 &&
           held >= 0 && held < number_in(&at[READ_MAX_HELD], read) &&
           number_in(&at[READ_RECEIVED], read) == 0 &&
           /* No message is kept, and none has come in part. */
           number_in(&state->turn_places[BYPASS], read) > 0 &&
           value_in(&state->places[READ_BY], value_in(&at[TRANSPORT_READER], transport)) == state->epoll &&
           value_in(&state->places[STATE], closing) == state->open &&
           value_in(&state->places[ANSWER_DUE], closing) == Py_None;
}

/* Return the method that a message calls, borrowed, and its parts in call, as take_rpc does. Return NULL if start_call
   must not call it. */
static PyObject *
callable_method(module_state *state, PyObject *session, PyObject *message, PyObject *call[3])
{
    const slot *at = state->call_places;
    PyObject *transport = value_in(&at[SESSION_TRANSPORT], session), *incoming = value_in(&at[SESSION_INCOMING], session);
    PyObject *plain = value_in(&at[TRANSPORT_PLAIN], transport), *waiting = value_in(&at[INCOMING_WAITING], incoming);
    PyObject *methods = value_in(&at[INCOMING_METHODS], incoming), *running = value_in(&at[INCOMING_RUNNING], incoming);
    PyObject *method;
    Py_ssize_t active = number_in(&at[INCOMING_ACTIVE], incoming);

    if (!PyBytes_CheckExact(message) || plain == NULL || !PyTuple_Check(plain) || !is_idle(state, transport) ||
        PyBytes_GET_SIZE(message) >= number_in(&at[TRANSPORT_MEASURED_FROM], transport) ||
        number_in(&at[TRANSPORT_MEASURED], transport) != 0 || value_in(&at[SESSION_UNDECIDED], session) != Py_False ||
        number_in(&at[OUTGOING_BURST], value_in(&at[SESSION_OUTGOING], session)) != 0 ||
        waiting == NULL || PyObject_Size(waiting) != 0 ||
        active < 0 || active >= number_in(&at[INCOMING_MAX], incoming) ||
        value_in(&at[INCOMING_LIMIT], incoming) != Py_None || value_in(&at[INCOMING_CLOSING], incoming) != Py_None ||
        methods == NULL || !PyDict_CheckExact(methods) || running == NULL || !PyDict_CheckExact(running) ||
        !take_call(message, call) || call[0] == Py_None)
        return NULL;
    method = PyDict_GetItemWithError(methods, call[0]);
    if (method == NULL || value_in(&at[METHOD_PLAIN], method) != Py_True ||
        (PyDict_GET_SIZE(running) && PyDict_Contains(running, call[2]) != 0))
        return NULL;
    return method;
}

/* Method.bind for arguments by position. Return them in a new list or tuple; NULL with an exception. */
static PyObject *
bind_args(module_state *state, PyObject *method, PyObject *args)
{
    PyObject *types = value_in(&state->call_places[METHOD_TYPES], method), *bound, *values;

    if (types != NULL && PyTuple_CheckExact(types) && fit_types(args, types))
        return Py_NewRef(args);
    bound = PyObject_CallMethod(method, "bind", "O{}", args);
    values = bound == NULL ? NULL : PyTuple_Check(bound) && PyTuple_GET_SIZE(bound) == 2
        ? PySequence_Fast(PyTuple_GET_ITEM(bound, 0), "arguments are a sequence")
        : PyErr_Format(PyExc_TypeError, "bind() returned %R", bound);
    Py_XDECREF(bound);
    return values;
}

/* Call a method with values, and run its first step in a context if it is async. Return what it has done, and set
   *result to that, or to the exception. */
static int
run_method(module_state *state, PyObject *method, PyObject *connection, PyObject *values, PyObject *context,
           PyObject **coroutine, PyObject **result)
{
    const slot *at = state->call_places;
    int is_async = number_in(&at[METHOD_KIND], method) == ASYNC_METHOD, done = RETURNED;
    PyObject *function = value_in(&at[METHOD_FUNCTION], method), *args[1 + MOST_ARGS];
    Py_ssize_t count = PySequence_Fast_GET_SIZE(values);

    *result = NULL;
    if (function == NULL || connection == NULL || count > MOST_ARGS)
        PyErr_SetString(PyExc_SystemError, "the method cannot be called");
    else if (is_async || PyContext_Enter(context) == 0) {
        Py_INCREF(function);
        args[0] = connection;
        for (Py_ssize_t i = 0; i < count; i++)
            args[1 + i] = PySequence_Fast_GET_ITEM(values, i);
        *result = PyObject_Vectorcall(function, args, 1 + count, NULL);
        Py_DECREF(function);
        if (!is_async && PyContext_Exit(context) < 0)
            Py_CLEAR(*result);
    }
    if (is_async && *result != NULL) {
        *coroutine = *result;
        done = step_in(context, *coroutine, result) == PYGEN_NEXT ? WAITS : RETURNED;
    }
    if (*result != NULL)
        return done;
    *result = raised();
    return FAILED;
}

/* PacketTransport.reply_result, if the socket takes all of it now. Return 1 then, 0 if it is left to that, or -1. */
static int
send_answer(module_state *state, PyObject *transport, PyObject *call_id, PyObject *value)
{
    const slot *at = state->call_places, *buffer = state->buffer_places;
    PyObject *plain = value_in(&at[TRANSPORT_PLAIN], transport), *written = value_in(&at[TRANSPORT_WRITTEN], transport);
    PyObject *encoded, *frame;
    Py_ssize_t size, sent;
    int fd;

    if (value == Py_None || !is_idle(state, transport) || plain == NULL || !PyTuple_Check(plain) ||
        PyTuple_GET_SIZE(plain) <= FRAME_FIELD || !can_send(state, written))
        return 0;
    fd = (int)number_in(&buffer[DESCRIPTOR], value_in(&buffer[TRANSPORT], written));
    Py_INCREF(plain);
    encoded = PyObject_CallOneArg(PyTuple_GET_ITEM(plain, ENCODE_FIELD), value);
    frame = encoded == NULL ? NULL : PyObject_CallFunctionObjArgs(PyTuple_GET_ITEM(plain, FRAME_FIELD), call_id, encoded,
                                                                  NULL);
    Py_XDECREF(encoded);
    Py_DECREF(plain);
    if (frame == NULL || !PyBytes_CheckExact(frame) || PyBytes_GET_SIZE(frame) > LARGE || !is_idle(state, transport)) {
        Py_XDECREF(frame);
        if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception))
            return -1;
        PyErr_Clear(); /* the general code explains what is wrong */
        return 0;
    }
    size = PyBytes_GET_SIZE(frame);
    sent = send(fd, PyBytes_AS_STRING(frame), size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0 && sent < size) {
        PyObject *rest = PyBytes_FromStringAndSize(PyBytes_AS_STRING(frame) + sent, size - sent);

        if (rest == NULL || send_rest(state, written, rest) < 0)
            sent = -1;
        Py_XDECREF(rest);
    }
    else if (sent <= 0)
        sent = 0; /* the general code tries again, and finds the same */
    Py_DECREF(frame);
    return sent > 0 ? 1 : (int)sent;
}

/* Whether a method has left a nursery open in a task that runs calls; -1 with an exception. */
static int
left_nurseries(PyObject *worker)
{
    PyObject *task = PyObject_GetAttrString(worker, "task"), *nurseries;
    int left;

    nurseries = task == NULL ? NULL : PyObject_GetAttrString(task, "child_nurseries");
    left = nurseries == NULL ? -1 : PyObject_IsTrue(nurseries);
    Py_XDECREF(nurseries);
    Py_XDECREF(task);
    return left;
}

/* start_call; nurseries are those that the task has open, or NULL if they are to be asked for. */
static PyObject *
start_in(module_state *state, PyObject *session, PyObject *message, PyObject *worker, PyObject *nurseries)
{
    const slot *at = state->call_places;
    PyObject *call[3] = {NULL, NULL, NULL}, *method, *incoming, *connection, *values = NULL, *context = NULL;
    PyObject *coroutine = NULL, *result = NULL, *pool, *step = NULL;
    int done = FAILED, sent;

    method = callable_method(state, session, message, call);
    if (method == NULL) {
        if (!PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            PyErr_Clear();
            step = Py_NewRef(Py_None);
        }
        goto end;
    }
    Py_INCREF(method);
    set_value(&at[SESSION_DRIVEN], session, Py_False);
    incoming = value_in(&at[SESSION_INCOMING], session);
    connection = Py_XNewRef(value_in(&at[INCOMING_CONNECTION], incoming));
    pool = Py_XNewRef(value_in(&at[INCOMING_POOL], incoming));
    values = bind_args(state, method, call[1]);
    if (values != NULL && pool != NULL && (context = PyObject_GetAttrString(pool, "context")) != NULL)
        Py_SETREF(context, PyContext_Copy(context));
    Py_XDECREF(pool);
    if (context != NULL)
        done = run_method(state, method, connection, values, context, &coroutine, &result);
    else
        result = raised();
    Py_XDECREF(connection);
    Py_DECREF(method);
    if (done == RETURNED) {
        PyObject *transport = Py_XNewRef(value_in(&at[SESSION_TRANSPORT], session));

        sent = send_answer(state, transport, call[2], result);
        if (sent < 0) {
            done = FAILED;
            Py_SETREF(result, raised());
        }
        else if (sent > 0) {
            done = ANSWERED;
            Py_SETREF(result, Py_NewRef(Py_None));
            sent = !is_idle(state, transport) ? 1 : nurseries ? PyList_GET_SIZE(nurseries) > 0 : left_nurseries(worker);
            if (sent < 0)
                PyErr_Clear(); /* the general code asks again */
            else if (sent == 0) {
                set_value(&at[SESSION_DRIVEN], session, Py_True);
                step = Py_NewRef(Py_True);
            }
        }
        Py_XDECREF(transport);
    }
    if (step == NULL)
        step = Py_BuildValue("i(OOO)OOO", done, call[0], call[1], call[2], result == NULL ? Py_None : result,
                             context == NULL ? Py_None : context, coroutine == NULL ? Py_None : coroutine);
end:
    for (int i = 0; i < 3; i++)
        Py_XDECREF(call[i]);
    Py_XDECREF(values);
    Py_XDECREF(context);
    Py_XDECREF(coroutine);
    Py_XDECREF(result);
    return step;
}

PyDoc_STRVAR(start_call_doc, "start_call($module, session, message, worker, /)\n--\n\n"
                             "See RPCSession.message_received.");

static PyObject *
start_call(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    module_state *state = PyModule_GetState(module);

    if (count != 3 || state->call_places[SESSION_DRIVEN].type == NULL) {
        PyErr_SetString(PyExc_TypeError, "start_call() takes a session, a message and a task");
        return NULL;
    }
    return start_in(state, args[0], args[1], args[2], NULL);
}

#endif
