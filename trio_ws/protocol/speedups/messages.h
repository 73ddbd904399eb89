/* The messages of a burst, received and sent by WebSocket. As websocket/connection.py. */

/* The next message of a connection: WebSocket.__anext__ without a coroutine while messages wait, and where the shared
   reader has to bring one. Calling a next_method returns a next_message then, and otherwise the coroutine of the Python
   method. Awaiting a next_message takes a message, or waits for one as Notification.wait does; in all other cases it
   goes on as that coroutine. As with a coroutine, nothing happens before the await. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *python; /* the method that does all of it */
} next_method;

typedef struct {
    PyObject_HEAD
    next_method *method;
    PyObject *connection; /* NULL once it has ended, or goes on as the coroutine */
    PyObject *rest;       /* the coroutine with which it goes on */
    char waits;           /* for a message, without the coroutine */
} next_message;

/* Whether the shared reader reads the connection, and has not stopped. */
static int
is_shared(module_state *state, PyObject *connection)
{
    PyObject *reader = value_in(&state->places[READER], connection);

    return state->epoll != NULL && value_in(&state->places[READ_BY], reader) == state->epoll;
}

/* Return the queue of a connection, borrowed, and set *size to its length. Return NULL if a message is half taken. */
static PyObject *
queue_of(module_state *state, PyObject *connection, Py_ssize_t *size)
{
    PyObject *buffer = value_in(&state->places[RECEIVE_BUFFER], connection);
    PyObject *messages = value_in(&state->places[MESSAGES], buffer);

    if (messages == NULL || !Py_IS_TYPE(messages, (PyTypeObject *)state->queue) ||
        value_in(&state->places[HALF_TAKEN], buffer) != Py_False)
        return NULL;
    *size = PyObject_Size(messages);
    return messages;
}

/* Return the queue, borrowed, if a message can be taken at once: the last one may have to start a reader that has
   stopped. */
static PyObject *
filled_queue(module_state *state, PyObject *connection)
{
    Py_ssize_t size;
    PyObject *messages = queue_of(state, connection, &size);

    return messages != NULL && (size > 1 || (size == 1 && is_shared(state, connection))) ? messages : NULL;
}

/* Whether a task has to wait until the shared reader brings a message, and nothing has to be done before. */
static int
may_wait(module_state *state, PyObject *connection)
{
    const slot *places = state->places;
    PyObject *closing = value_in(&places[CLOSING], connection);
    Py_ssize_t size;

    return is_shared(state, connection) && queue_of(state, connection, &size) != NULL && size == 0 &&
           value_in(&places[STATE], closing) == state->open && value_in(&places[ANSWER_DUE], closing) == Py_None &&
           value_in(&places[SCHEDULED], value_in(&places[WRITE_BUFFER], connection)) == Py_False;
}

static PyObject *
take_message(module_state *state, PyObject *messages)
{
    PyObject *fields[2], *message;

    fields[1] = PyObject_CallOneArg(state->queue_popleft, messages);
    if (fields[1] == NULL)
        return NULL;
    fields[0] = PyUnicode_CheckExact(fields[1]) ? state->text : state->binary;
    message = PyObject_Vectorcall((PyObject *)state->places[KIND].type, fields, 2, NULL);
    Py_DECREF(fields[1]);
    return message;
}

/* ReceiveBuffer.release, mostly where single messages are taken from the socket. Return -1 with an exception. */
static int
release_queue(module_state *state, PyObject *buffer)
{
    const slot *places = state->places;
    PyObject *messages = value_in(&places[MESSAGES], buffer), *unparsed = value_in(&places[UNPARSED], buffer),
             *longest = value_in(&places[LONGEST_ALONE], buffer);

    /* Only where there is no parser is a connection known to be between two messages. */
    if (messages == NULL || !Py_IS_TYPE(messages, (PyTypeObject *)state->queue) || PyObject_Size(messages) != 0 ||
        value_in(&places[PARSER], buffer) != Py_None || number_in(&places[LONGEST_ALONE], buffer) <= 0 ||
        value_in(&places[EXPECTED_ALONE], buffer) != Py_True || unparsed == NULL || !PyBytes_CheckExact(unparsed) ||
        PyBytes_GET_SIZE(unparsed) != 0 || value_in(&places[DROPPED], buffer) != Py_False ||
        value_in(&places[PEER_CLOSED], buffer) != Py_False)
        return call_method(buffer, state->release, NULL);
    set_value(&places[MESSAGES], buffer, state->no_messages);
    set_value(&places[ALONE], buffer, longest);
    return set_number(&places[CHARGED], buffer, 0);
}

PyDoc_STRVAR(release_doc, "release($module, receive_buffer, /)\n--\n\n"
                          "Call ReceiveBuffer.release, or do the same.");

static PyObject *
release(PyObject *module, PyObject *buffer)
{
    return release_queue(PyModule_GetState(module), buffer) < 0 ? NULL : Py_NewRef(Py_None);
}

/* ReceiveBuffer.keep, mostly where nothing else waits. Return -1 with an exception. */
static int
keep_in_queue(module_state *state, PyObject *buffer, PyObject *message)
{
    const slot *places = state->places;
    Py_ssize_t charged = number_in(&places[CHARGED], buffer);
    PyObject *queue;
    int failed;

    if (charged < 0 || charged > PY_SSIZE_T_MAX / 2 || value_in(&places[MESSAGES], buffer) != state->no_messages ||
        value_in(&places[PARSER], buffer) != Py_None ||
        !(PyBytes_CheckExact(message) || (PyUnicode_CheckExact(message) && PyUnicode_IS_COMPACT_ASCII(message))))
        return call_method(buffer, state->keep, message);
    queue = PyObject_CallNoArgs(state->queue);
    if (queue == NULL)
        return -1;
    failed = call_method(queue, state->append, message) < 0;
    if (!failed)
        set_value(&places[MESSAGES], buffer, queue);
    Py_DECREF(queue);
    return failed || set_number(&places[ALONE], buffer, 0) < 0 ||
                   set_number(&places[CHARGED], buffer, charged + PyObject_Size(message) + OVERHEAD) < 0
               ? -1
               : 0;
}

PyDoc_STRVAR(keep_doc, "keep($module, receive_buffer, message, /)\n--\n\n"
                       "Call ReceiveBuffer.keep, or do the same.");

static PyObject *
keep(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "keep() takes a receive buffer and a message");
        return NULL;
    }
    return keep_in_queue(PyModule_GetState(module), args[0], args[1]) < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(keep_message_doc, "keep_message($module, reader, message, /)\n--\n\n"
                               "See python_keep_message in websocket/readers.py.");

static PyObject *
keep_message(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    module_state *state = PyModule_GetState(module);
    const slot *places = state->places;
    PyObject *buffer, *notice, *task, *none;
    int failed;

    if (count != 2 || (buffer = value_in(&places[READ_INTO], args[0])) == NULL) {
        PyErr_SetString(PyExc_TypeError, "keep_message() takes a reader and a message");
        return NULL;
    }
    Py_INCREF(buffer);
    failed = keep_in_queue(state, buffer, args[1]) < 0;
    Py_DECREF(buffer);
    if (failed)
        return NULL;
    notice = value_in(&places[INPUT_NOTICE], args[0]);
    if (notice == Py_None)
        Py_RETURN_NONE;
    task = value_in(&places[WAITING_TASK], notice);
    /* The class of tasks is known from watch_task. */
    if (task == NULL || !Py_IS_TYPE(task, state->slots[STATUS].type))
        return task == Py_None ? Py_NewRef(Py_None) : PyObject_CallMethodNoArgs(args[0], state->notify_input);
    Py_INCREF(task);
    set_value(&places[WAITING_TASK], notice, Py_None);
    none = PyObject_CallFunctionObjArgs(state->reschedule, task, state->wake, NULL);
    Py_DECREF(task);
    return none;
}

/* Do what Notification.wait does for the first task that waits. Return what that yields, or NULL if this is not
   possible, or with an exception. */
static PyObject *
start_to_wait(module_state *state, PyObject *connection)
{
    const slot *places = state->places;
    PyObject *reader = value_in(&places[READER], connection), *task, *input, **waiting, *abort, *trap;

    task = state->trap == NULL || state->context == NULL ? NULL : current_task(state);
    if (task == NULL || release_queue(state, value_in(&places[RECEIVE_BUFFER], connection)) < 0)
        return NULL;
    input = value_in(&places[INPUT_NOTICE], reader);
    /* It is made when it is first used. */
    input = input == NULL || input == Py_None ? PyObject_GetAttr(reader, state->input_arrived) : Py_NewRef(input);
    waiting = in_slot(&places[WAITING_TASK], input);
    abort = waiting == NULL || *waiting != Py_None ? NULL : PyObject_GetAttr(input, state->leave_first);
    trap = abort == NULL ? NULL : new_trap(state, abort);
    if (trap != NULL)
        set_value(&places[WAITING_TASK], input, task);
    Py_XDECREF(abort);
    Py_XDECREF(input);
    return trap;
}

static PyObject *
next_method_call(PyObject *self, PyObject *const *args, size_t count, PyObject *names)
{
    module_state *state = PyType_GetModuleState(Py_TYPE(self));
    next_message *next;

    if (PyVectorcall_NARGS(count) != 1 || names != NULL ||
        !(filled_queue(state, args[0]) != NULL || may_wait(state, args[0])))
        return PyErr_Occurred() ? NULL : PyObject_Vectorcall(((next_method *)self)->python, args, count, names);
    next = PyObject_GC_New(next_message, state->next_message);
    if (next == NULL)
        return NULL;
    next->method = (next_method *)Py_NewRef(self);
    next->connection = Py_NewRef(args[0]);
    next->rest = NULL;
    next->waits = 0;
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
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((next_method *)self)->python);
    return 0;
}

static int
next_method_clear(PyObject *self)
{
    Py_CLEAR(((next_method *)self)->python);
    return 0;
}

static PyObject *
next_method_new(PyTypeObject *type, PyObject *args, PyObject *names)
{
    PyObject *python;
    next_method *method;

    if (!PyArg_ParseTuple(args, "O:next_method", &python))
        return NULL;
    method = (next_method *)type->tp_alloc(type, 0);
    if (method == NULL)
        return NULL;
    method->call = next_method_call;
    method->python = Py_NewRef(python);
    return (PyObject *)method;
}

static PyMemberDef next_method_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(next_method, call), READONLY},
    {"__wrapped__", T_OBJECT_EX, offsetof(next_method, python), READONLY},
    {NULL},
};

PyDoc_STRVAR(next_method_doc, "next_method(python, /)\n--\n\n"
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

/* Take a message, or wait. Return NULL if it must go on as the coroutine, or with an exception. */
static PyObject *
take_or_wait(module_state *state, next_message *next, int waited)
{
    PyObject *messages = filled_queue(state, next->connection), *trap;
    int passes = messages == NULL ? 0 : waited ? 1 : task_passes(state);

    if (passes > 0)
        return take_message(state, messages);
    if (passes < 0 || PyErr_Occurred() || !may_wait(state, next->connection))
        return NULL;
    trap = start_to_wait(state, next->connection);
    next->waits = trap != NULL;
    return trap;
}

static PySendResult
next_message_step(PyObject *self, PyObject *value, PyObject **result)
{
    module_state *state = PyType_GetModuleState(Py_TYPE(self));
    next_message *next = (next_message *)self;
    PyObject *rest, *woken;
    PySendResult step;

    *result = NULL;
    if (next->connection != NULL && (next->waits || value == Py_None)) {
        int waited = next->waits;

        next->waits = 0;
        woken = waited ? unwrap(state, value) : NULL;
        if (!waited || (woken != NULL && set_number(&state->places[SENDS], next->connection, 0) == 0))
            *result = take_or_wait(state, next, waited);
        Py_XDECREF(woken);
        if (next->waits)
            return PYGEN_NEXT;
        if (*result != NULL || PyErr_Occurred()) {
            Py_CLEAR(next->connection);
            return *result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
        }
        value = Py_None;
    }
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
    next_message *next = (next_message *)self;
    PyObject *inner;

    inner = next->rest == NULL ? Py_NewRef(Py_None) : PyObject_GetAttrString(next->rest, "cr_await");
    if (inner == NULL)
        return NULL;
    Py_DECREF(inner);
    if (inner == Py_None && !(next->waits && next->connection != NULL))
        return Py_NewRef(self);
    PyErr_SetString(PyExc_RuntimeError, "coroutine is being awaited already");
    return NULL;
}

/* For those who look at what a task waits for, such as Task.iter_await_frames. */
static PyMemberDef next_message_members[] = {
    {"cr_frame", T_NONE, 0, READONLY},
    {"cr_await", T_OBJECT, offsetof(next_message, rest), READONLY},
    {NULL},
};

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
    {Py_tp_members, next_message_members},
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
             "watch_connection($module, classes, no_messages, open, epoll, reschedule, wake, /)\n--\n\n"
             "Tell next_message, send_at_once and keep_message about classes and values of theirs.");

static PyObject *
watch_connection(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    enum { CONNECTION, RECEIVED, WRITTEN, MESSAGE, READING, CLOSURE, NOTIFICATION, CLASSES };
    static const struct {
        int owner;
        const char *name;
    } names[PLACES] = {
        [WRITE_BUFFER] = {CONNECTION, "_write_buffer"},
        [RECEIVE_BUFFER] = {CONNECTION, "_receive_buffer"},
        [READER] = {CONNECTION, "_reader"},
        [CLOSING] = {CONNECTION, "_closing"},
        [SENDS] = {CONNECTION, "_sends_since_yield"},
        [MESSAGES] = {RECEIVED, "messages"},
        [HALF_TAKEN] = {RECEIVED, "parts_open"},
        [SIZE] = {WRITTEN, "size"},
        [LIMIT] = {WRITTEN, "fast_send_limit"},
        [SCHEDULED] = {WRITTEN, "flush_scheduled"},
        [PARTS] = {WRITTEN, "_parts"},
        [KIND] = {MESSAGE, "msg_type"},
        [PAYLOAD] = {MESSAGE, "payload"},
        [READ_BY] = {READING, "by"},
        [READ_INTO] = {READING, "receive_buffer"},
        [INPUT_NOTICE] = {READING, "_input_arrived"},
        [STATE] = {CLOSURE, "state"},
        [ANSWER_DUE] = {CLOSURE, "deferred"},
        [WAITING_TASK] = {NOTIFICATION, "_waiting"},
        [PARSER] = {RECEIVED, "frames"},
        [CHARGED] = {RECEIVED, "received"},
        [ALONE] = {RECEIVED, "bypass_limit"},
        [LONGEST_ALONE] = {RECEIVED, "_longest_bypass"},
        [EXPECTED_ALONE] = {RECEIVED, "single"},
        [UNPARSED] = {RECEIVED, "pending_input"},
        [DROPPED] = {RECEIVED, "discarding"},
        [PEER_CLOSED] = {RECEIVED, "_closed_by_peer"},
    };
    module_state *state = PyModule_GetState(module);
    PyObject *popleft;
    int found = count == 6 && PyTuple_Check(args[0]) && PyTuple_GET_SIZE(args[0]) == CLASSES;

    for (int i = 0; i < PLACES && found > 0; i++)
        found = find_slot(&state->places[i], PyTuple_GET_ITEM(args[0], names[i].owner), names[i].name);
    if (found == 0)
        PyErr_Format(PyExc_TypeError, "watch_connection() takes %d classes with slots, and five values", CLASSES);
    if (found <= 0)
        return NULL;
    popleft = PyObject_GetAttr((PyObject *)Py_TYPE(args[1]), state->popleft);
    if (popleft == NULL)
        return NULL;
    Py_XSETREF(state->queue_popleft, popleft);
    Py_XSETREF(state->queue, Py_NewRef(Py_TYPE(args[1])));
    Py_XSETREF(state->no_messages, Py_NewRef(args[1]));
    Py_XSETREF(state->reschedule, Py_NewRef(args[4]));
    Py_XSETREF(state->wake, Py_NewRef(args[5]));
    Py_XSETREF(state->open, Py_NewRef(args[2]));
    Py_XSETREF(state->epoll, Py_NewRef(args[3]));
    Py_RETURN_NONE;
}

#ifdef HAS_SOCKETS

/* Return a small text or bytes as bytes; NULL, without an exception, for anything else. */
static PyObject *
small_payload(PyObject *value)
{
    PyObject *payload = NULL;

    if (PyBytes_CheckExact(value))
        payload = Py_NewRef(value);
    else if (PyUnicode_CheckExact(value) && PyUnicode_GET_LENGTH(value) < LARGE)
        payload = PyUnicode_AsUTF8String(value);
    if (payload == NULL)
        PyErr_Clear(); /* Python meets it again */
    else if (PyBytes_GET_SIZE(payload) >= LARGE)
        Py_CLEAR(payload);
    return payload;
}

/* Whether a frame may be sent at once: to a socket, on an open connection of a server, without compression, where
   nothing waits. */
static int
can_send(module_state *state, PyObject *write_buffer)
{
    PyObject *transport = value_in(&state->buffer_places[TRANSPORT], write_buffer);
    Py_ssize_t fd = number_in(&state->buffer_places[DESCRIPTOR], transport);

    return fd >= 0 && fd <= INT_MAX && number_in(&state->places[SIZE], write_buffer) == 0 &&
           number_in(&state->places[LIMIT], write_buffer) > 0 &&
           value_in(&state->buffer_places[BROKEN], write_buffer) == Py_False;
}

/* What WriteBuffer.write does with the rest of a frame, of which the socket took less. Return -1 with an exception. */
static int
send_rest(module_state *state, PyObject *write_buffer, PyObject *rest)
{
    return call_method(write_buffer, state->append_frame, rest) < 0 ? -1
                                                                    : call_method(write_buffer, state->drain_soon, NULL);
}

/* WriteBuffer.write_frame where can_send is true. Return 1, or -1 with an exception. */
static int
send_small(module_state *state, PyObject *write_buffer, int is_text, PyObject *payload)
{
    PyObject *transport = value_in(&state->buffer_places[TRANSPORT], write_buffer), *rest;
    int fd = (int)number_in(&state->buffer_places[DESCRIPTOR], transport), failed = 0;

    rest = send_payload(fd, is_text ? 0x81 : 0x82, payload);
    if (rest == NULL && PyErr_ExceptionMatches(PyExc_OSError)) {
        rest = raised();
        failed = call_method(write_buffer, state->break_off, rest) < 0;
    }
    else if (rest != NULL && rest != Py_None)
        failed = send_rest(state, write_buffer, rest) < 0;
    failed = failed || rest == NULL;
    Py_XDECREF(rest);
    return failed ? -1 : 1;
}

/* Send a message where nothing else has been received, and nothing waits to be sent. Return 0 if this is not possible,
   and -1 with an exception. */
static int
send_alone(module_state *state, PyObject *connection, PyObject *write_buffer, PyObject *value)
{
    PyObject *payload = can_send(state, write_buffer) ? small_payload(value) : NULL, *error;
    int passes = payload == NULL ? 0 : task_passes(state);

    if (passes > 0) {
        Py_INCREF(write_buffer);
        passes = send_small(state, write_buffer, PyUnicode_CheckExact(value), payload);
        if (passes > 0 && value_in(&state->buffer_places[BROKEN], write_buffer) != Py_False) {
            error = PyObject_CallMethod(value_in(&state->places[CLOSING], connection), "closed_error", NULL);
            if (error != NULL)
                PyErr_SetObject((PyObject *)Py_TYPE(error), error);
            Py_XDECREF(error);
            passes = -1;
        }
        Py_DECREF(write_buffer);
    }
    Py_XDECREF(payload);
    return passes;
}

#endif

/* Buffer a message of a burst: more messages wait, a flush is due, and there is room until then. Return 0 if this is not
   so, and -1 with an exception. */
static int
send_in_burst(module_state *state, PyObject *write_buffer, PyObject *value)
{
    const slot *places = state->places;
    PyObject *parts, *frame;
    Py_ssize_t size, waiting, used;
    unsigned char head[LONGEST_HEAD];
    const char *payload;
    int passes;

    if (PyBytes_CheckExact(value)) {
        payload = PyBytes_AS_STRING(value);
        size = PyBytes_GET_SIZE(value);
    }
    else if (PyUnicode_CheckExact(value) && PyUnicode_IS_COMPACT_ASCII(value)) {
        payload = PyUnicode_DATA(value);
        size = PyUnicode_GET_LENGTH(value);
    }
    else
        return 0;
    if (size >= LARGE || (parts = burst_under_way(places, write_buffer, LONGEST_HEAD + size, &waiting)) == NULL ||
        waiting >= number_in(&places[LIMIT], write_buffer) || (passes = task_passes(state)) == 0)
        return 0;
    if (passes < 0)
        return -1;
    used = write_head(head, PyBytes_CheckExact(value) ? 0x82 : 0x81, size);
    frame = PyBytes_FromStringAndSize(NULL, used + size);
    if (frame == NULL)
        return -1;
    memcpy(PyBytes_AS_STRING(frame), head, used);
    memcpy(PyBytes_AS_STRING(frame) + used, payload, size);
    passes = add_to_burst(places, write_buffer, parts, frame, waiting) < 0 ? -1 : 1;
    Py_DECREF(frame);
    return passes;
}

PyDoc_STRVAR(send_at_once_doc, "send_at_once($module, connection, message, /)\n--\n\n"
                               "See WebSocket.send in websocket/connection.py.");

static PyObject *
send_at_once(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    module_state *state = PyModule_GetState(module);
    const slot *places = state->places;
    PyObject *value, *write_buffer, *messages, **kind;
    Py_ssize_t more, sends;
    int sent = 0;

    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "send_at_once() takes a connection and a message");
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
    write_buffer = value_in(&places[WRITE_BUFFER], args[0]);
    messages = value_in(&places[MESSAGES], value_in(&places[RECEIVE_BUFFER], args[0]));
    more = messages == NULL ? -1 : PyObject_Size(messages);
    sends = number_in(&places[SENDS], args[0]);
    if (more >= 0 && sends >= 0 && sends < SENDS_IN_A_ROW) { /* this task need not let others run */
        if (more > 0)
            sent = send_in_burst(state, write_buffer, value);
#ifdef HAS_SOCKETS
        else
            sent = send_alone(state, args[0], write_buffer, value);
#endif
    }
    if (sent > 0 && set_number(&places[SENDS], args[0], sends + (more > 0 ? 1 : DIRECT_SEND)) < 0)
        return NULL;
    return PyErr_Occurred() ? NULL : PyBool_FromLong(sent);
}
