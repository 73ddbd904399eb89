/* Single messages of many connections: receiving them, calling message listeners and methods, and sending what these
   return. As websocket/single_messages.py, and as message_received of ListenerSession in app/listener.py and of
   RPCSession in rpc/session.py. */

#ifdef HAS_SOCKETS

/* The arguments of handle_single_messages. */
enum { NURSERIES, READY, CONNECTIONS, LEFT, LENT };

PyDoc_STRVAR(watch_reader_doc, "watch_reader($module, reader_type, receive_buffer_type, /)\n--\n\n"
                               "Tell handle_single_messages about these classes.");

static PyObject *
watch_reader(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const char *const names[] = {"observer", "receive_buffer", "bypass_limit", "masked", "received_since_check"};
    module_state *state = PyModule_GetState(module);
    int found = count == 2;

    for (int i = OBSERVER; i <= SINCE_CHECK && found > 0; i++)
        found = find_slot(&state->turn_places[i], args[i >= BYPASS], names[i - OBSERVER]);
    if (found == 0)
        PyErr_SetString(PyExc_TypeError, "watch_reader() takes two classes with slots");
    return found > 0 ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(watch_listener_doc, "watch_listener($module, session_type, listener_type, /)\n--\n\n"
                                 "Let handle_single_messages call message listeners.");

static PyObject *
watch_listener(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const char *const names[] = {"reader_driven", "_listener", "_ws", "_write_buffer", "_context", "_arguments",
                                        "raw", "is_async", "function", "convert", "_encode"};
    module_state *state = PyModule_GetState(module);
    int found = count == 2;

    for (int i = DRIVEN; i <= ENCODER && found > 0; i++)
        found = find_slot(&state->turn_places[i], args[i >= RAW], names[i - DRIVEN]);
    if (found == 0)
        PyErr_SetString(PyExc_TypeError, "watch_listener() takes two classes with slots");
    return found > 0 ? Py_NewRef(Py_None) : NULL;
}

/* Return what a listener is to be called with: the message, or what it is converted to. Return NULL if Python is to decide,
   or with an exception. */
static PyObject *
listener_data(module_state *state, PyObject *listener, PyObject *message)
{
    PyObject *raw = value_in(&state->turn_places[RAW], listener), *convert, *data;

    if (raw == NULL || !PyTuple_CheckExact(raw))
        return NULL;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(raw); i++)
        if (PyTuple_GET_ITEM(raw, i) == (PyObject *)Py_TYPE(message))
            return Py_NewRef(message);
    convert = Py_XNewRef(value_in(&state->turn_places[CONVERT], listener));
    data = convert == NULL ? NULL : PyObject_CallOneArg(convert, message);
    Py_XDECREF(convert);
    if (data == NULL && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_Exception))
        PyErr_Clear(); /* Python meets it again, and explains it to the peer */
    return data;
}

/* Return the payload of what a listener has returned. Return NULL if Python is to send it, or with an exception. */
static PyObject *
listener_payload(module_state *state, PyObject *listener, PyObject *result)
{
    PyObject *encode = value_in(&state->turn_places[ENCODER], listener), *payload;

    if (encode == NULL || PyUnicode_Check(result) || PyObject_CheckBuffer(result) ||
        PyObject_TypeCheck(result, state->places[KIND].type))
        return small_payload(result);
    Py_INCREF(encode);
    payload = PyObject_CallOneArg(encode, result);
    Py_DECREF(encode);
    if (payload != NULL && (!PyBytes_CheckExact(payload) || PyBytes_GET_SIZE(payload) >= SEND_SIZE))
        Py_CLEAR(payload);
    return payload;
}

/* ListenerSession.message_received. */
static PyObject *
call_listener(module_state *state, PyObject *session, PyObject *message, PyObject *lent, PyObject *nurseries)
{
    const slot *places = state->turn_places;
    PyObject *listener = Py_XNewRef(value_in(&places[LISTENER], session)), *data[2] = {NULL, NULL}, *coroutine = NULL,
             *result = NULL, *payload = NULL, *failure = NULL, *going_on = NULL, *write_buffer, *context, *arguments,
             *function, *is_async;
    PySendResult step = PYGEN_ERROR;
    int sent = 0;

    if (can_send(state, value_in(&places[OUTPUT], session)))
        data[1] = listener_data(state, listener, message);
    data[0] = Py_XNewRef(value_in(&places[CLIENT], session));
    write_buffer = Py_XNewRef(value_in(&places[OUTPUT], session));
    context = value_in(&places[CONTEXT], session);
    arguments = Py_XNewRef(value_in(&places[ARGUMENTS], session));
    function = Py_XNewRef(value_in(&places[FUNCTION], listener));
    is_async = value_in(&places[ASYNC], listener);
    if (data[0] == NULL || data[1] == NULL || write_buffer == NULL || arguments == NULL || !PyDict_CheckExact(arguments) ||
        function == NULL || is_async == NULL || !PyBool_Check(is_async) || context == NULL ||
        !PyContext_CheckExact(context)) {
        context = NULL;
        if (PyErr_Occurred()) {
            failure = raised();
            going_on = PyObject_CallMethod(session, "_conclude", "OOO", lent, Py_None, failure);
        }
        else
            going_on = PyObject_CallMethodObjArgs(session, state->message_received, message, lent, NULL);
        goto done;
    }
    context = PyContext_Copy(context);
    if (context == NULL)
        goto done;
    set_value(&places[DRIVEN], session, Py_False);
    if (is_async == Py_True)
        coroutine = PyObject_VectorcallDict(function, data, 2, arguments);
    if ((coroutine != NULL || is_async == Py_False) && PyContext_Enter(context) == 0) {
        if (is_async == Py_True)
            step = PyIter_Send(coroutine, Py_None, &result);
        else if ((result = PyObject_VectorcallDict(function, data, 2, arguments)) != NULL)
            step = PYGEN_RETURN;
        if (PyContext_Exit(context) < 0)
            step = PYGEN_ERROR;
    }
    if (step == PYGEN_NEXT)
        going_on = PyObject_CallMethod(session, "_loop", "O(OOO)", lent, coroutine, result, context);
    else {
        if (step == PYGEN_RETURN && result != Py_None && can_send(state, write_buffer) &&
            (payload = listener_payload(state, listener, result)) != NULL && can_send(state, write_buffer))
            sent = send_small(state, write_buffer, !PyBytes_CheckExact(result), payload);
        if (PyErr_Occurred())
            failure = raised();
        else if ((sent || result == Py_None) && can_send(state, write_buffer) && PyList_GET_SIZE(nurseries) == 0) {
            set_value(&places[DRIVEN], session, Py_True);
            going_on = Py_NewRef(Py_None);
        }
        if (going_on == NULL)
            going_on = PyObject_CallMethod(session, "_conclude", "OOO", lent, failure || sent ? Py_None : result,
                                           failure ? failure : Py_None);
    }
done:
    Py_XDECREF(listener);
    Py_XDECREF(data[0]);
    Py_XDECREF(data[1]);
    Py_XDECREF(write_buffer);
    Py_XDECREF(context);
    Py_XDECREF(arguments);
    Py_XDECREF(function);
    Py_XDECREF(coroutine);
    Py_XDECREF(result);
    Py_XDECREF(payload);
    Py_XDECREF(failure);
    return going_on;
}

/* Return what came from a connection: what receive_payload returns, or None if the connection is broken. */
static PyObject *
receive_from(module_state *state, PyObject *connection, PyObject *descriptor, int masked, Py_ssize_t limit)
{
    int fd = as_descriptor(descriptor), failed;
    PyObject *received = PyErr_Occurred() ? NULL : receive_payload(fd, READ_SIZE, masked, limit), *error, *closing;

    if (received != NULL || !PyErr_ExceptionMatches(PyExc_OSError))
        return received;
    error = raised();
    closing = PyObject_GetAttrString(connection, "closing");
    failed = closing == NULL || call_method(closing, state->abort, error) < 0;
    Py_XDECREF(closing);
    Py_DECREF(error);
    return failed ? NULL : Py_NewRef(Py_None);
}

/* RPCSession.message_received. */
static PyObject *
call_rpc_method(module_state *state, PyObject *session, PyObject *message, PyObject *lent, PyObject *nurseries)
{
    PyObject *step = start_in(state, session, message, lent, nurseries), *going_on;

    if (step == NULL)
        return NULL;
    going_on = step == Py_True ? Py_NewRef(Py_None)
                               : PyObject_CallMethod(session, "go_on", "OOO", step, message, lent);
    Py_DECREF(step);
    return going_on;
}

/* Let an observer handle a message, if it wants to. Return what it returns, NULL with an exception, or Py_NotImplemented
   if it does not. */
static PyObject *
tell_observer(module_state *state, PyObject *observer, PyObject *message, PyObject *lent, PyObject *nurseries)
{
    PyObject *driven = Py_XNewRef(value_in(&state->turn_places[DRIVEN], observer));
    int is_listener = driven != NULL, is_rpc = 0, wants;

    if (observer == NULL || observer == Py_None)
        return Py_NewRef(Py_NotImplemented);
    if (!is_listener) {
        driven = Py_XNewRef(value_in(&state->call_places[SESSION_DRIVEN], observer));
        is_rpc = driven != NULL;
    }
    if (driven == NULL && (driven = PyObject_GetAttr(observer, state->reader_driven)) == NULL)
        return NULL;
    wants = PyObject_IsTrue(driven);
    Py_DECREF(driven);
    if (wants <= 0)
        return wants < 0 ? NULL : Py_NewRef(Py_NotImplemented);
    if (is_listener)
        return call_listener(state, observer, message, lent, nurseries);
    if (is_rpc)
        return call_rpc_method(state, observer, message, lent, nurseries);
    return PyObject_CallMethodObjArgs(observer, state->message_received, message, lent, NULL);
}

/* Call Reader.failed with the exception that was raised. */
static int
report_failure(module_state *state, PyObject *connection)
{
    PyObject *error = raised();
    int failed = call_method(connection, state->failed, error);

    Py_DECREF(error);
    return failed;
}

/* Receive from a connection, and let its observer handle a single message. Return NULL if that is all, with an exception
   if it failed; otherwise what handle_single_messages returns. */
static PyObject *
handle_one(module_state *state, PyObject *connection, PyObject *descriptor, PyObject *const *args, Py_ssize_t *left)
{
    const slot *places = state->turn_places;
    PyObject *buffer = Py_NewRef(value_in(&places[INPUT], connection)), *observer, *going_on = NULL, *stop = NULL;
    PyObject *received = receive_from(state, connection, descriptor, value_in(&places[MASKED], buffer) == Py_True,
                                      number_in(&places[BYPASS], buffer));

    if (received == Py_None) {
        *left -= END_COST;
        stop = Py_BuildValue("nOOO", *left, connection, Py_None, Py_None);
    }
    else if (received != NULL && PyTuple_CheckExact(received))
        stop = Py_BuildValue("nOOO", *left, connection, received, Py_None);
    else if (received != NULL) {
        set_value(&places[SINCE_CHECK], buffer, Py_True);
        observer = Py_XNewRef(value_in(&places[OBSERVER], connection));
        going_on = tell_observer(state, observer, received, args[LENT], args[NURSERIES]);
        Py_XDECREF(observer);
        if (going_on == Py_NotImplemented)
            stop = Py_BuildValue("nOOO", *left, connection, received, Py_None);
        else if (going_on != NULL || PyErr_ExceptionMatches(PyExc_Exception)) {
            *left -= MESSAGE_COST + PyObject_Size(received);
            if (going_on == NULL) {
                if (report_failure(state, connection) == 0)
                    stop = Py_BuildValue("nOOO", *left, connection, Py_None, Py_None);
            }
            else if (going_on != Py_None || number_in(&places[BYPASS], buffer) <= 0)
                stop = Py_BuildValue("nOOO", *left, connection, Py_None, going_on);
        }
        Py_XDECREF(going_on);
    }
    Py_XDECREF(received);
    Py_DECREF(buffer);
    return stop;
}

PyDoc_STRVAR(handle_single_messages_doc,
             "handle_single_messages($module, nurseries, ready, connections, left, lent, /)\n--\n\n"
             "See python_handle_single_messages in websocket/single_messages.py. The first argument is the list of the\n"
             "nurseries that this task has open.");

static PyObject *
handle_single_messages(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    module_state *state = PyModule_GetState(module);
    const slot *places = state->turn_places;
    PyObject *stop = NULL;
    Py_ssize_t left;
    int goes_on = 1;

    if (count != 5 || !PyList_CheckExact(args[NURSERIES]) || !PyDict_CheckExact(args[CONNECTIONS])) {
        PyErr_SetString(PyExc_TypeError, "handle_single_messages() takes a list, a deque, a dict, a number and a task");
        return NULL;
    }
    left = PyLong_AsSsize_t(args[LEFT]);
    while (goes_on && !PyErr_Occurred() && left > 0 && PyObject_Size(args[READY]) > 0) {
        PyObject *descriptor = PySequence_GetItem(args[READY], 0), *connection = NULL;

        if (descriptor != NULL)
            connection = Py_XNewRef(PyDict_GetItemWithError(args[CONNECTIONS], descriptor));
        goes_on = connection == NULL || number_in(&places[BYPASS], value_in(&places[INPUT], connection)) > 0;
        if (goes_on && !PyErr_Occurred() && call_method(args[READY], state->popleft, NULL) == 0 && connection != NULL) {
            stop = handle_one(state, connection, descriptor, args, &left);
            goes_on = stop == NULL;
        }
        Py_XDECREF(connection);
        Py_XDECREF(descriptor);
    }
    if (stop == NULL && !PyErr_Occurred())
        stop = Py_BuildValue("nOOO", left, Py_None, Py_None, Py_None);
    return stop;
}

#endif
