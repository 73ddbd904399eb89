/* The messages of a burst, received and sent by WebSocket. As websocket/connection.py. */

/* The next message of a connection: WebSocket.__anext__ without a coroutine while messages of a burst wait. Calling a
   next_method returns a next_message then, and otherwise the coroutine of the Python method. Awaiting a next_message
   takes a message at once; if that is no longer possible, it goes on as that coroutine. As with a coroutine, nothing
   happens before the await. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *python;                    /* the method that does all of it */
    slot buffer, messages, half_taken;   /* WebSocket._receive_buffer, ReceiveBuffer.messages and .parts_open */
    PyObject *queue, *popleft, *message; /* deque, deque.popleft, WebSocketMessage */
} next_method;

typedef struct {
    PyObject_HEAD
    next_method *method;
    PyObject *connection; /* NULL once it was awaited */
    PyObject *rest;       /* the coroutine with which it goes on */
} next_message;

/* Return the queue of a connection, borrowed, if more than one message waits in it: the last one may have to start a
   reader that has stopped. Return NULL otherwise, or with an exception. */
static PyObject *
waiting_messages(next_method *method, PyObject *connection)
{
    PyObject **buffer, **messages, **half_taken;

    if ((buffer = in_slot(&method->buffer, connection)) == NULL ||
        (messages = in_slot(&method->messages, *buffer)) == NULL || *messages == NULL ||
        !Py_IS_TYPE(*messages, (PyTypeObject *)method->queue) || PyObject_Size(*messages) < 2)
        return NULL;
    half_taken = in_slot(&method->half_taken, *buffer);
    return half_taken != NULL && *half_taken == Py_False ? *messages : NULL;
}

/* Take a message. Return NULL if that is not possible at once, or with an exception. */
static PyObject *
message_at_once(next_method *method, PyObject *connection)
{
    module_state *state = PyType_GetModuleState(Py_TYPE(method));
    PyObject *messages = waiting_messages(method, connection), *fields[2], *message;

    if (messages == NULL || task_passes(state) <= 0)
        return NULL;
    fields[1] = PyObject_CallOneArg(method->popleft, messages);
    if (fields[1] == NULL)
        return NULL;
    fields[0] = PyUnicode_CheckExact(fields[1]) ? state->text : state->binary;
    message = PyObject_Vectorcall(method->message, fields, 2, NULL);
    Py_DECREF(fields[1]);
    return message;
}

static PyObject *
next_method_call(PyObject *self, PyObject *const *args, size_t count, PyObject *names)
{
    next_method *method = (next_method *)self;
    module_state *state;
    next_message *next;

    if (PyVectorcall_NARGS(count) != 1 || names != NULL || waiting_messages(method, args[0]) == NULL)
        return PyErr_Occurred() ? NULL : PyObject_Vectorcall(method->python, args, count, names);
    state = PyType_GetModuleState(Py_TYPE(self));
    next = PyObject_GC_New(next_message, state->next_message);
    if (next == NULL)
        return NULL;
    next->method = (next_method *)Py_NewRef(self);
    next->connection = Py_NewRef(args[0]);
    next->rest = NULL;
    PyObject_GC_Track(next);
    return (PyObject *)next;
}

static PyObject *
next_method_bind(PyObject *self, PyObject *connection, PyObject *type)
{
    return connection == NULL || connection == Py_None ? Py_NewRef(self) : PyMethod_New(self, connection);
}

static int
next_method_traverse(PyObject *self, visitproc visit, void *arg)
{
    next_method *method = (next_method *)self;

    Py_VISIT(Py_TYPE(self));
    Py_VISIT(method->python);
    Py_VISIT(method->buffer.type);
    Py_VISIT(method->messages.type);
    Py_VISIT(method->half_taken.type);
    Py_VISIT(method->message);
    return 0;
}

static int
next_method_clear(PyObject *self)
{
    next_method *method = (next_method *)self;

    Py_CLEAR(method->python);
    Py_CLEAR(method->buffer.type);
    Py_CLEAR(method->messages.type);
    Py_CLEAR(method->half_taken.type);
    Py_CLEAR(method->queue);
    Py_CLEAR(method->popleft);
    Py_CLEAR(method->message);
    return 0;
}

static PyObject *
next_method_new(PyTypeObject *type, PyObject *args, PyObject *names)
{
    PyObject *python, *connection, *buffer, *queue, *message;
    next_method *method;

    if (!PyArg_ParseTuple(args, "OOOOO:next_method", &python, &connection, &buffer, &queue, &message))
        return NULL;
    method = (next_method *)type->tp_alloc(type, 0);
    if (method == NULL)
        return NULL;
    method->call = next_method_call;
    method->python = Py_NewRef(python);
    method->queue = Py_NewRef(queue);
    method->message = Py_NewRef(message);
    method->popleft = PyObject_GetAttrString(queue, "popleft");
    if (method->popleft != NULL && find_slot(&method->buffer, connection, "_receive_buffer") > 0 &&
        find_slot(&method->messages, buffer, "messages") > 0 &&
        find_slot(&method->half_taken, buffer, "parts_open") > 0)
        return (PyObject *)method;
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_TypeError, "next_method() takes classes with slots");
    Py_DECREF(method);
    return NULL;
}

static PyMemberDef next_method_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(next_method, call), READONLY},
    {"__wrapped__", T_OBJECT_EX, offsetof(next_method, python), READONLY},
    {NULL},
};

PyDoc_STRVAR(next_method_doc, "next_method(python, connection_type, buffer_type, queue_type, message_type, /)\n--\n\n"
                              "WebSocket.__anext__, which is given as python, in C.");

static PyType_Slot next_method_slots[] = {
    {Py_tp_doc, (void *)next_method_doc},
    {Py_tp_new, next_method_new},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, next_method_bind},
    {Py_tp_members, next_method_members},
    {Py_tp_traverse, next_method_traverse},
    {Py_tp_clear, next_method_clear},
    {Py_tp_dealloc, free_tracked},
    {0, NULL},
};

static PyType_Spec next_method_spec = {
    .name = "trio_ws.protocol._speedups.next_method",
    .basicsize = sizeof(next_method),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = next_method_slots,
};

static int
next_message_traverse(PyObject *self, visitproc visit, void *arg)
{
    next_message *next = (next_message *)self;

    Py_VISIT(Py_TYPE(self));
    Py_VISIT(next->method);
    Py_VISIT(next->connection);
    Py_VISIT(next->rest);
    return 0;
}

static int
next_message_clear(PyObject *self)
{
    next_message *next = (next_message *)self;

    Py_CLEAR(next->method);
    Py_CLEAR(next->connection);
    Py_CLEAR(next->rest);
    return 0;
}

/* Return the coroutine with which it goes on, borrowed. */
static PyObject *
next_message_rest(next_message *next)
{
    if (next->connection != NULL) {
        next->rest = PyObject_CallOneArg(next->method->python, next->connection);
        Py_CLEAR(next->connection);
    }
    else if (next->rest == NULL)
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    return next->rest;
}

static PySendResult
next_message_step(PyObject *self, PyObject *value, PyObject **result)
{
    next_message *next = (next_message *)self;
    PyObject *rest;
    PySendResult step;

    if (next->connection != NULL && value == Py_None) {
        *result = message_at_once(next->method, next->connection);
        if (*result != NULL || PyErr_Occurred()) {
            Py_CLEAR(next->connection);
            return *result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
        }
    }
    *result = NULL;
    rest = next_message_rest(next);
    if (rest == NULL)
        return PYGEN_ERROR;
    Py_INCREF(rest);
    step = PyIter_Send(rest, value, result);
    Py_DECREF(rest);
    return step;
}

static PyObject *
next_message_send(PyObject *self, PyObject *value)
{
    PyObject *result;
    PySendResult step = next_message_step(self, value, &result);

    return step == PYGEN_RETURN ? stop_iteration(result) : result;
}

static PyObject *
next_message_iternext(PyObject *self)
{
    return next_message_send(self, Py_None);
}

static PyObject *
next_message_throw(PyObject *self, PyObject *args)
{
    PyObject *rest = next_message_rest((next_message *)self);

    return rest == NULL ? NULL : throw_into(rest, args);
}

static PyObject *
next_message_close(PyObject *self, PyObject *unused)
{
    next_message *next = (next_message *)self;

    Py_CLEAR(next->connection);
    return next->rest == NULL ? Py_NewRef(Py_None) : PyObject_CallMethod(next->rest, "close", NULL);
}

/* Two tasks must not await it at once, as they must not await one coroutine. */
static PyObject *
next_message_await(PyObject *self)
{
    PyObject *rest = ((next_message *)self)->rest, *inner;

    inner = rest == NULL ? Py_NewRef(Py_None) : PyObject_GetAttrString(rest, "cr_await");
    if (inner == NULL)
        return NULL;
    Py_DECREF(inner);
    if (inner == Py_None)
        return Py_NewRef(self);
    PyErr_SetString(PyExc_RuntimeError, "coroutine is being awaited already");
    return NULL;
}

static PyMethodDef next_message_methods[] = {
    {"send", next_message_send, METH_O, NULL},
    {"throw", next_message_throw, METH_VARARGS, NULL},
    {"close", next_message_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot next_message_slots[] = {
    {Py_am_await, next_message_await},
    {Py_am_send, next_message_step},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, next_message_iternext},
    {Py_tp_methods, next_message_methods},
    {Py_tp_traverse, next_message_traverse},
    {Py_tp_clear, next_message_clear},
    {Py_tp_dealloc, free_tracked},
    {0, NULL},
};

static PyType_Spec next_message_spec = {
    .name = "trio_ws.protocol._speedups.next_message",
    .basicsize = sizeof(next_message),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = next_message_slots,
};

PyDoc_STRVAR(watch_connection_doc,
             "watch_connection($module, connection_type, receive_buffer_type, write_buffer_type, message_type, /)\n--\n\n"
             "Tell send_in_burst about these classes.");

static PyObject *
watch_connection(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const char *const names[PLACES] = {
        "_write_buffer", "_receive_buffer", "_sends_since_yield", "messages", "size", "fast_send_limit",
        "flush_scheduled", "_parts", "msg_type", "payload"};
    static const int owners[PLACES] = {0, 0, 0, 1, 2, 2, 2, 2, 3, 3};
    module_state *state = PyModule_GetState(module);
    int found = count == 4;

    for (int i = 0; i < PLACES && found > 0; i++)
        found = find_slot(&state->places[i], args[owners[i]], names[i]);
    if (found == 0)
        PyErr_SetString(PyExc_TypeError, "watch_connection() takes four classes with slots");
    return found > 0 ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(send_in_burst_doc, "send_in_burst($module, connection, message, /)\n--\n\n"
                                "See WebSocket.send in websocket/connection.py.");

static PyObject *
send_in_burst(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    module_state *state = PyModule_GetState(module);
    const slot *places = state->places;
    PyObject *value, **write_buffer, **receive_buffer, **kind, **messages, *parts, *frame;
    Py_ssize_t size, waiting, sends, used;
    unsigned char head[LONGEST_HEAD];
    const char *payload;
    int passes, failed;

    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "send_in_burst() takes a connection and a message");
        return NULL;
    }
    value = args[1];
    if ((kind = in_slot(&places[KIND], value)) != NULL) {
        if (*kind != state->text && *kind != state->binary)
            Py_RETURN_FALSE;
        value = *in_slot(&places[PAYLOAD], value);
        if (value == NULL || (*kind == state->text) != PyUnicode_CheckExact(value))
            Py_RETURN_FALSE;
    }
    if (value != NULL && PyBytes_CheckExact(value)) {
        payload = PyBytes_AS_STRING(value);
        size = PyBytes_GET_SIZE(value);
    }
    else if (value != NULL && PyUnicode_CheckExact(value) && PyUnicode_IS_COMPACT_ASCII(value)) {
        payload = PyUnicode_DATA(value);
        size = PyUnicode_GET_LENGTH(value);
    }
    else
        Py_RETURN_FALSE;
    if ((write_buffer = in_slot(&places[WRITE_BUFFER], args[0])) == NULL ||
        (receive_buffer = in_slot(&places[RECEIVE_BUFFER], args[0])) == NULL ||
        /* More messages wait, */
        (messages = in_slot(&places[MESSAGES], *receive_buffer)) == NULL || *messages == NULL ||
        PyObject_Size(*messages) < 1 || size >= LARGE ||
        /* a flush is due, and there is room until then, */
        (parts = burst_under_way(places, *write_buffer, LONGEST_HEAD + size, &waiting)) == NULL ||
        waiting >= number_in(&places[LIMIT], *write_buffer) ||
        /* and this task need not let others run. */
        (sends = number_in(&places[SENDS], args[0])) < 0 || sends >= SENDS_IN_A_ROW)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
    passes = task_passes(state);
    if (passes <= 0)
        return passes < 0 ? NULL : Py_NewRef(Py_False);
    used = write_head(head, PyBytes_CheckExact(value) ? 0x82 : 0x81, size);
    frame = PyBytes_FromStringAndSize(NULL, used + size);
    if (frame == NULL)
        return NULL;
    memcpy(PyBytes_AS_STRING(frame), head, used);
    memcpy(PyBytes_AS_STRING(frame) + used, payload, size);
    failed = add_to_burst(places, *write_buffer, parts, frame, waiting) < 0 ||
             set_number(&places[SENDS], args[0], sends + 1) < 0;
    Py_DECREF(frame);
    return failed ? NULL : Py_NewRef(Py_True);
}
