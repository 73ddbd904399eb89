/* Write buffers: frames of a burst, frames for many connections, and flushing a row of them. As write_buffer.py. */

/* Return the frames of a write buffer, borrowed, if a flush is due and more bytes can wait until then, and set *waiting
   to the bytes that wait. Return NULL otherwise. */
static PyObject *
burst_under_way(const slot *places, PyObject *write_buffer, Py_ssize_t more, Py_ssize_t *waiting)
{
    PyObject **scheduled = in_slot(&places[SCHEDULED], write_buffer), **parts;

    if (scheduled == NULL || *scheduled != Py_True || (*waiting = number_in(&places[SIZE], write_buffer)) < 0 ||
        more > FLUSH_AT - *waiting)
        return NULL;
    parts = in_slot(&places[PARTS], write_buffer);
    return *parts != NULL && PyList_CheckExact(*parts) && PyList_GET_SIZE(*parts) ? *parts : NULL;
}

/* Do what WriteBuffer.buffer does in that case. */
static int
add_to_burst(const slot *places, PyObject *write_buffer, PyObject *parts, PyObject *frame, Py_ssize_t waiting)
{
    if (PyList_Append(parts, frame) < 0)
        return -1;
    return set_number(&places[SIZE], write_buffer, waiting + PyBytes_GET_SIZE(frame));
}

/* Call WriteBuffer.buffer, or do the same in a burst. Takes the reference to the frame. Return -1 with an exception. */
static int
buffer_in(module_state *state, PyObject *write_buffer, PyObject *frame)
{
    Py_ssize_t waiting;
    PyObject *parts = burst_under_way(state->places, write_buffer, PyBytes_GET_SIZE(frame), &waiting), *none;
    int result;

    if (parts != NULL)
        result = add_to_burst(state->places, write_buffer, parts, frame, waiting);
    else {
        none = PyObject_CallMethodOneArg(write_buffer, state->buffer, frame);
        result = none == NULL ? -1 : 0;
        Py_XDECREF(none);
    }
    Py_DECREF(frame);
    return result;
}

PyDoc_STRVAR(buffer_frame_doc, "buffer_frame($module, write_buffer, first, payload, /)\n--\n\n"
                               "See python_buffer_frame in websocket/write_buffer.py.");

static PyObject *
buffer_frame(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    module_state *state = PyModule_GetState(module);
    PyObject *frame, *parts[3];

    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "buffer_frame() takes a write buffer, a byte and a payload");
        return NULL;
    }
    parts[0] = args[1];
    parts[1] = args[2];
    parts[2] = state->no_key;
    frame = whole_frame(module, parts, 3);
    return frame == NULL || buffer_in(state, args[0], frame) < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(buffer_item_doc,
             "buffer_item($module, encode, first, before, between, after, general, write_buffer, call_id, value, /)\n"
             "--\n\n"
             "See item_sender and reply_result in rpc/transport.py.");

static PyObject *
buffer_item(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    enum { ENCODE, FIRST, BEFORE, BETWEEN, AFTER, GENERAL, BUFFER, CALL_ID, VALUE, ARGUMENTS };
    module_state *state = PyModule_GetState(module);
    PyObject *frame = NULL, *encoded;
    Py_ssize_t size;

    if (count != ARGUMENTS) {
        PyErr_SetString(PyExc_TypeError, "buffer_item() takes nine arguments");
        return NULL;
    }
    encoded = PyObject_CallOneArg(args[ENCODE], args[VALUE]);
    if (encoded != NULL && number_in(&state->places[LIMIT], args[BUFFER]) > 0) {
        PyObject *of_frame[] = {args[FIRST], args[BEFORE], args[BETWEEN], args[AFTER], args[CALL_ID], encoded};

        frame = result_frame(module, of_frame, 6);
    }
    Py_XDECREF(encoded);
    if (frame == NULL) {
        /* That explains what is wrong. */
        if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception))
            return NULL;
        PyErr_Clear();
        return args[GENERAL] == Py_None ? Py_NewRef(Py_None) : PyObject_CallOneArg(args[GENERAL], args[VALUE]);
    }
    size = PyBytes_GET_SIZE(frame);
    if (buffer_in(state, args[BUFFER], frame) < 0)
        return NULL;
    return PyLong_FromSsize_t(size - (size < 128 ? 2 : size < 65540 ? 4 : 10));
}

PyDoc_STRVAR(watch_buffers_doc, "watch_buffers($module, write_buffer_type, transport_type, no_parts, /)\n--\n\n"
                                "Tell buffer_each and flush_row about these classes, and the list of empty buffers.");

static PyObject *
watch_buffers(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const char *const names[BUFFER_PLACES] = {
        "_parts", "size", "flush_scheduled", "_draining", "broken", "_has_deferred", "bytes_sent", "transport", "fd"};
    module_state *state = PyModule_GetState(module);
    int found = count == 3 && PyList_CheckExact(args[2]);

    for (int i = 0; i < BUFFER_PLACES && found > 0; i++)
        found = find_slot(&state->buffer_places[i], args[i == DESCRIPTOR], names[i]);
    if (found == 0)
        PyErr_SetString(PyExc_TypeError, "watch_buffers() takes two classes with slots and a list");
    if (found <= 0)
        return NULL;
    Py_XSETREF(state->no_parts, Py_NewRef(args[2]));
    Py_RETURN_NONE;
}

/* WriteBuffer.buffer, but for the scheduling of the flush. */
static int
buffer_one(module_state *state, PyObject *buffer, PyObject *frame, PyObject *due)
{
    const slot *places = state->buffer_places;
    PyObject *parts = value_in(&places[WAITING_PARTS], buffer), *scheduled = value_in(&places[FLUSH_DUE], buffer),
             *draining = value_in(&places[DRAINING], buffer);
    Py_ssize_t size = number_in(&places[WAITING_SIZE], buffer);

    if (parts == NULL || !PyList_CheckExact(parts) || size < 0 || size > PY_SSIZE_T_MAX - PyBytes_GET_SIZE(frame) ||
        scheduled == NULL || !PyBool_Check(scheduled) || draining == NULL || !PyBool_Check(draining))
        return call_method(buffer, state->buffer, frame);
    size += PyBytes_GET_SIZE(frame);
    if (PyList_GET_SIZE(parts) == 0) {
        parts = PyList_New(1);
        if (parts == NULL)
            return -1;
        PyList_SET_ITEM(parts, 0, Py_NewRef(frame));
        set_value(&places[WAITING_PARTS], buffer, parts);
        Py_DECREF(parts);
    }
    else if (PyList_Append(parts, frame) < 0)
        return -1;
    if (set_number(&places[WAITING_SIZE], buffer, size) < 0)
        return -1;
    if (scheduled == Py_True)
        return size > FLUSH_AT ? call_method(buffer, state->flush, NULL) : 0;
    if (draining == Py_True)
        return 0;
    set_value(&places[FLUSH_DUE], buffer, Py_True);
    return PyList_Append(due, buffer);
}

PyDoc_STRVAR(buffer_each_doc, "buffer_each($module, write_buffers, frame, /)\n--\n\n"
                              "See python_buffer_each in websocket/write_buffer.py.");

static PyObject *
buffer_each(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    module_state *state = PyModule_GetState(module);
    PyObject *due;
    int failed = 0;

    if (count != 2 || !PyList_CheckExact(args[0]) || !PyBytes_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "buffer_each() takes a list and bytes");
        return NULL;
    }
    due = PyList_New(0);
    for (Py_ssize_t i = 0; due != NULL && !failed && i < PyList_GET_SIZE(args[0]); i++) {
        PyObject *buffer = Py_NewRef(PyList_GET_ITEM(args[0], i));

        failed = buffer_one(state, buffer, args[1], due) < 0;
        Py_DECREF(buffer);
    }
    if (failed)
        Py_CLEAR(due);
    return due;
}

#ifdef HAS_SOCKETS

/* Join the parts of a write buffer, if all are bytes and that is worth while. Return their size, or -1. *data is
   within one of the parts, in small, or in *joined. */
static Py_ssize_t
join_parts(PyObject *parts, char *small, const char **data, PyObject **joined)
{
    Py_ssize_t count = PyList_GET_SIZE(parts), size = 0;
    char *out = small;

    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *part = PyList_GET_ITEM(parts, i);

        if (!PyBytes_CheckExact(part) || PyBytes_GET_SIZE(part) > 2 * FLUSH_AT - size)
            return -1;
        size += PyBytes_GET_SIZE(part);
    }
    *data = PyBytes_AS_STRING(PyList_GET_ITEM(parts, 0));
    if (count == 1)
        return size;
    if (size > JOINED) {
        *joined = PyBytes_FromStringAndSize(NULL, size);
        if (*joined == NULL) {
            PyErr_Clear();
            return -1;
        }
        out = PyBytes_AS_STRING(*joined);
    }
    *data = out;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *part = PyList_GET_ITEM(parts, i);

        memcpy(out, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part));
        out += PyBytes_GET_SIZE(part);
    }
    return size;
}

/* WriteBuffer.flush for what waits for a socket, which sends it. Return 1, 0 if Python is to do it, or -1. */
static int
flush_socket(module_state *state, PyObject *buffer)
{
    const slot *places = state->buffer_places;
    PyObject *parts = value_in(&places[WAITING_PARTS], buffer), *joined = NULL, *rest;
    PyObject *descriptor = value_in(&places[DESCRIPTOR], value_in(&places[TRANSPORT], buffer));
    Py_ssize_t size, sent, before = number_in(&places[SENT], buffer);
    char small[JOINED];
    const char *data;
    int fd;

    if (parts == NULL || !PyList_CheckExact(parts) || PyList_GET_SIZE(parts) == 0 ||
        value_in(&places[DRAINING], buffer) != Py_False || value_in(&places[BROKEN], buffer) != Py_False ||
        value_in(&places[DEFERRED], buffer) != Py_False || value_in(&places[FLUSH_DUE], buffer) == NULL ||
        value_in(&places[WAITING_SIZE], buffer) == NULL || before < 0 || before > PY_SSIZE_T_MAX / 2 ||
        descriptor == NULL)
        return 0;
    fd = as_descriptor(descriptor);
    if (fd < 0) {
        PyErr_Clear();
        return 0;
    }
    size = join_parts(parts, small, &data, &joined);
    if (size < 0)
        return 0;
    sent = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent <= 0) {
        int gone = sent < 0 && !nothing_now(errno), failed = 0;

        if (gone) {
            PyErr_SetFromErrno(PyExc_OSError);
            rest = raised();
            set_value(&places[FLUSH_DUE], buffer, Py_False);
            failed = call_method(buffer, state->break_off, rest) < 0;
            Py_XDECREF(rest);
        }
        Py_XDECREF(joined);
        return failed ? -1 : gone;
    }
    set_value(&places[FLUSH_DUE], buffer, Py_False);
    rest = sent == size ? NULL : PyBytes_FromStringAndSize(data + sent, size - sent);
    if (sent == size)
        set_value(&places[WAITING_PARTS], buffer, state->no_parts);
    else if (rest == NULL || PyList_SetSlice(parts, 0, PyList_GET_SIZE(parts), NULL) < 0 ||
             PyList_Append(parts, rest) < 0) {
        Py_XDECREF(joined);
        Py_XDECREF(rest);
        return -1;
    }
    Py_XDECREF(joined);
    Py_XDECREF(rest);
    if (set_number(&places[WAITING_SIZE], buffer, size - sent) < 0 ||
        set_number(&places[SENT], buffer, before + sent) < 0)
        return -1;
    return sent < size && call_method(buffer, state->drain_soon, NULL) < 0 ? -1 : 1;
}

PyDoc_STRVAR(flush_row_doc, "flush_row($module, write_buffers, start, most, /)\n--\n\n"
                            "See python_flush_row in websocket/write_buffer.py.");

static PyObject *
flush_row(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    module_state *state = PyModule_GetState(module);
    Py_ssize_t i, most, work = 0;

    if (count != 3 || !PyList_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "flush_row() takes a list and two numbers");
        return NULL;
    }
    i = PyLong_AsSsize_t(args[1]);
    most = PyErr_Occurred() ? 0 : PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred())
        return NULL;
    while (i >= 0 && i < PyList_GET_SIZE(args[0]) && (work < most || work == 0)) {
        PyObject *buffer = Py_NewRef(PyList_GET_ITEM(args[0], i++));
        Py_ssize_t size = number_in(&state->buffer_places[WAITING_SIZE], buffer);
        int flushed;

        if (size < 0) {
            PyObject *number = PyObject_GetAttrString(buffer, "size");

            size = number == NULL ? -1 : PyLong_AsSsize_t(number);
            Py_XDECREF(number);
        }
        if (size > PY_SSIZE_T_MAX - FLUSH_COST - work)
            size = PY_SSIZE_T_MAX - FLUSH_COST - work;
        work += FLUSH_COST + size;
        flushed = PyErr_Occurred() ? -1 : flush_socket(state, buffer);
        if (flushed == 0)
            flushed = call_method(buffer, state->flush, NULL);
        Py_DECREF(buffer);
        if (flushed < 0)
            return NULL;
    }
    return PyLong_FromSsize_t(i);
}

#endif
