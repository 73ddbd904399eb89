/* Masking, and reading and writing of the common frame, also from and to a socket. As masking.py and _accel.py. */

/* XOR by 64-bit words, each with the key twice. memcpy makes this independent of alignment and byte order.
   Compilers vectorize this loop at -O3. It may work in place. */
static void
xor_words(char *out, const char *in, Py_ssize_t size, const char *key)
{
    char twice[8] = {key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]};
    uint64_t keys, word;
    Py_ssize_t i = 0;

    memcpy(&keys, twice, 8);
    for (; i + 8 <= size; i += 8) {
        memcpy(&word, in + i, 8);
        word ^= keys;
        memcpy(out + i, &word, 8);
    }
    for (; i < size; i++)
        out[i] = in[i] ^ twice[i & 3];
}

PyDoc_STRVAR(mask_doc, "mask($module, data, key, /)\n--\n\n"
                       "Xor the bytes-like data with the four bytes of key, repeated.");

static PyObject *
mask(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer data;
    PyObject *masked;

    if (count != 2 || !PyBytes_Check(args[1]) || PyBytes_GET_SIZE(args[1]) != 4) {
        PyErr_SetString(PyExc_TypeError, "mask() takes bytes-like data and a key of four bytes");
        return NULL;
    }
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    masked = PyBytes_FromStringAndSize(NULL, data.len);
    if (masked != NULL)
        xor_words(PyBytes_AS_STRING(masked), data.buf, data.len, PyBytes_AS_STRING(args[1]));
    PyBuffer_Release(&data);
    return masked;
}

PyDoc_STRVAR(new_payload_doc, "new_payload($module, size, /)\n--\n\n"
                              "Return bytes that must be filled by fill_payload before anything else sees them.");

static PyObject *
new_payload(PyObject *module, PyObject *number)
{
    Py_ssize_t size = PyLong_AsSsize_t(number);

    if (size < 2 && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "shorter bytes are shared");
    return PyErr_Occurred() ? NULL : PyBytes_FromStringAndSize(NULL, size);
}

PyDoc_STRVAR(fill_payload_doc, "fill_payload($module, payload, at, data, start, end, key, /)\n--\n\n"
                               "Copy data[start:end] to payload[at:], xored with the key unless that is b\"\".");

static PyObject *
fill_payload(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t at, start, end;
    Py_buffer data;
    const char *in;
    char *out;

    if (count != 6 || !PyBytes_Check(args[0]) || !PyBytes_Check(args[5]) || (PyBytes_GET_SIZE(args[5]) & ~4)) {
        PyErr_SetString(PyExc_TypeError, "fill_payload() takes bytes, an index, data, two indices and a key");
        return NULL;
    }
    at = PyLong_AsSsize_t(args[1]);
    start = PyLong_AsSsize_t(args[3]);
    end = PyLong_AsSsize_t(args[4]);
    if (PyErr_Occurred())
        return NULL;
    if (PyObject_GetBuffer(args[2], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    out = PyBytes_AS_STRING(args[0]);
    in = data.buf;
    if (at < 0 || start < 0 || start > end || end > data.len || end - start > PyBytes_GET_SIZE(args[0]) - at ||
        (in < out + PyBytes_GET_SIZE(args[0]) && out < in + data.len)) {
        PyBuffer_Release(&data);
        PyErr_SetString(PyExc_ValueError, "the data does not fit");
        return NULL;
    }
    out += at;
    in += start;
    if (PyBytes_GET_SIZE(args[5]))
        xor_words(out, in, end - start, PyBytes_AS_STRING(args[5]));
    else
        memcpy(out, in, end - start);
    PyBuffer_Release(&data);
    Py_RETURN_NONE;
}

/* Return the payload length of the common frame at the start of data, and set *head to the length of its header.
   Return -1 for any other frame, and for one that is not complete. */
static Py_ssize_t
common_frame(const unsigned char *data, Py_ssize_t size, int masked, Py_ssize_t limit, Py_ssize_t *head)
{
    Py_ssize_t n;

    if (size < 2 || (data[0] != 0x81 && data[0] != 0x82) || data[1] >> 7 != masked)
        return -1;
    n = data[1] & 127;
    *head = 2;
    if (n == 126 && size >= 4) {
        n = data[2] << 8 | data[3];
        if (n < 126)
            return -1;
        *head = 4;
    }
    else if (n == 127 && size >= 10) {
        uint64_t length = 0;

        for (int i = 2; i < 10; i++)
            length = length << 8 | data[i];
        if (length < 65536 || length > (uint64_t)size)
            return -1;
        n = (Py_ssize_t)length;
        *head = 10;
    }
    else if (n >= 126)
        return -1;
    *head += masked ? 4 : 0;
    return n > limit || n > size - *head ? -1 : n;
}

/* Return the payload of such a frame as str or bytes. */
static PyObject *
frame_message(const unsigned char *data, Py_ssize_t head, Py_ssize_t n, int masked)
{
    const char *payload = (const char *)data + head;
    PyObject *message = PyBytes_FromStringAndSize(masked ? NULL : payload, n);

    if (message != NULL && masked)
        xor_words(PyBytes_AS_STRING(message), payload, n, payload - 4);
    if (message != NULL && data[0] == 0x81)
        Py_SETREF(message, PyUnicode_DecodeUTF8(PyBytes_AS_STRING(message), n, NULL));
    return message;
}

PyDoc_STRVAR(take_frames_doc, "take_frames($module, data, start, masked, limit, messages, /)\n--\n\n"
                              "See _accel.py.");

static PyObject *
take_frames(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    module_state *state = PyModule_GetState(module);
    Py_buffer data;
    Py_ssize_t i, limit, n, head;
    int masked, frames = 0;

    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "take_frames() takes data, start, masked, limit and messages");
        return NULL;
    }
    i = PyLong_AsSsize_t(args[1]);
    masked = PyObject_IsTrue(args[2]);
    limit = PyLong_AsSsize_t(args[3]);
    if (PyErr_Occurred())
        return NULL;
    if (i < 0) {
        PyErr_SetString(PyExc_ValueError, "start is an index from the beginning");
        return NULL;
    }
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    while (frames++ < MOST_FRAMES && i <= data.len &&
           (n = common_frame((const unsigned char *)data.buf + i, data.len - i, masked, limit, &head)) >= 0) {
        PyObject *message = frame_message((const unsigned char *)data.buf + i, head, n, masked), *none = NULL;

        if (message != NULL) {
            none = PyObject_CallMethodOneArg(args[4], state->append, message);
            Py_DECREF(message);
        }
        else if (PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            PyErr_Clear();
            i = -1;
            break;
        }
        if (none == NULL) {
            PyBuffer_Release(&data);
            return NULL;
        }
        Py_DECREF(none);
        i += head + n;
    }
    PyBuffer_Release(&data);
    return PyLong_FromSsize_t(i);
}

#ifdef HAS_SOCKETS

/* Return a descriptor, or -1, which may be with an exception. */
static int
as_descriptor(PyObject *number)
{
    long fd = PyLong_AsLong(number);

    return fd < 0 || fd > INT_MAX ? -1 : (int)fd;
}

/* Whether an error of a socket means that it has nothing, or no room, at the moment. */
static int
nothing_now(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

/* receive_frame, with checked arguments. */
static PyObject *
receive_payload(int fd, Py_ssize_t most, int masked, Py_ssize_t limit)
{
    unsigned char small[FIRST_READ];
    Py_ssize_t size, n, head;
    PyObject *data, *result;

    size = recv(fd, small, FIRST_READ, MSG_DONTWAIT);
    if (size < 0)
        return nothing_now(errno) ? Py_NewRef(Py_None) : PyErr_SetFromErrno(PyExc_OSError);
    if (size < FIRST_READ) {
        n = common_frame(small, size, masked, limit, &head);
        if (n >= 0 && head + n == size) {
            result = frame_message(small, head, n, masked);
            if (result != NULL || !PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
                return result;
            PyErr_Clear();
        }
        data = PyBytes_FromStringAndSize((char *)small, size);
    }
    else {
        data = PyBytes_FromStringAndSize(NULL, most);
        if (data == NULL)
            return NULL;
        memcpy(PyBytes_AS_STRING(data), small, FIRST_READ);
        size = recv(fd, PyBytes_AS_STRING(data) + FIRST_READ, most - FIRST_READ, MSG_DONTWAIT);
        /* The next call meets an error, and the end, again. */
        _PyBytes_Resize(&data, FIRST_READ + (size < 0 ? 0 : size));
    }
    result = data == NULL ? NULL : PyTuple_Pack(1, data);
    Py_XDECREF(data);
    return result;
}

PyDoc_STRVAR(receive_frame_doc, "receive_frame($module, fd, buffer, masked, limit, /)\n--\n\n"
                                "See _accel.py.");

static PyObject *
receive_frame(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t most, limit;
    int fd, masked;

    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "receive_frame() takes a descriptor, a size, masked and limit");
        return NULL;
    }
    fd = as_descriptor(args[0]);
    most = PyLong_AsSsize_t(args[1]);
    masked = PyObject_IsTrue(args[2]);
    limit = PyLong_AsSsize_t(args[3]);
    if (PyErr_Occurred())
        return NULL;
    if (most < FIRST_READ) {
        PyErr_Format(PyExc_ValueError, "the size is at least %d", FIRST_READ);
        return NULL;
    }
    return receive_payload(fd, most, masked, limit);
}

#endif

/* Write the header of an unmasked frame, and return its length. */
static Py_ssize_t
write_head(unsigned char *head, unsigned long first, Py_ssize_t size)
{
    int bytes = size < 126 ? 0 : size < 65536 ? 2 : 8;

    head[0] = (unsigned char)first;
    head[1] = (unsigned char)(bytes == 0 ? size : bytes == 2 ? 126 : 127);
    for (int at = 0; at < bytes; at++)
        head[2 + at] = (unsigned char)((uint64_t)size >> 8 * (bytes - 1 - at));
    return 2 + bytes;
}

PyDoc_STRVAR(whole_frame_doc, "whole_frame($module, first, payload, key, /)\n--\n\n"
                              "One frame: the first byte, and bytes-like payload, masked unless key is b\"\".");

static PyObject *
whole_frame(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    unsigned char head[LONGEST_HEAD];
    Py_ssize_t used, keys;
    unsigned long first;
    Py_buffer payload;
    PyObject *frame;
    char *out;

    if (count != 3 || !PyBytes_Check(args[2]) ||
        ((keys = PyBytes_GET_SIZE(args[2])) != 4 && keys != 0)) {
        PyErr_SetString(PyExc_TypeError, "whole_frame() takes a byte, a payload and a key of four or no bytes");
        return NULL;
    }
    first = PyLong_AsUnsignedLong(args[0]);
    if (PyErr_Occurred() || PyObject_GetBuffer(args[1], &payload, PyBUF_SIMPLE) < 0)
        return NULL;
    used = write_head(head, first, payload.len);
    if (keys) {
        head[1] |= 0x80;
        memcpy(head + used, PyBytes_AS_STRING(args[2]), 4);
        used += 4;
    }
    frame = PyBytes_FromStringAndSize(NULL, used + payload.len);
    if (frame != NULL) {
        out = PyBytes_AS_STRING(frame);
        memcpy(out, head, used);
        if (keys)
            xor_words(out + used, payload.buf, payload.len, PyBytes_AS_STRING(args[2]));
        else if (payload.len)
            memcpy(out + used, payload.buf, payload.len);
    }
    PyBuffer_Release(&payload);
    return frame;
}

#ifdef HAS_SOCKETS

/* What is left of a frame of which some bytes were sent: a part of its payload, or a copy. */
static PyObject *
rest_of_frame(const char *head, Py_ssize_t used, PyObject *payload, Py_ssize_t sent)
{
    Py_ssize_t size = PyBytes_GET_SIZE(payload), left = used + size - sent;
    PyObject *rest, *whole;
    char *out;

    if (sent >= used) {
        whole = PyMemoryView_FromObject(payload);
        rest = whole == NULL ? NULL : PySequence_GetSlice(whole, size - left, size);
        Py_XDECREF(whole);
        return rest;
    }
    rest = PyBytes_FromStringAndSize(NULL, left);
    if (rest != NULL) {
        out = PyBytes_AS_STRING(rest);
        memcpy(out, head + sent, used - sent);
        memcpy(out + used - sent, PyBytes_AS_STRING(payload), size);
    }
    return rest;
}

/* send_frame, with checked arguments. */
static PyObject *
send_payload(int fd, unsigned long first, PyObject *payload)
{
    unsigned char frame[LONGEST_HEAD + JOINED];
    struct iovec parts[2];
    struct msghdr both = {.msg_iov = parts, .msg_iovlen = 2};
    Py_ssize_t used, size = PyBytes_GET_SIZE(payload), sent;

    used = write_head(frame, first, size);
    if (size <= JOINED) {
        memcpy(frame + used, PyBytes_AS_STRING(payload), size);
        sent = send(fd, frame, used + size, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    else {
        parts[0] = (struct iovec){frame, used};
        parts[1] = (struct iovec){PyBytes_AS_STRING(payload), size};
        sent = sendmsg(fd, &both, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    if (sent == used + size)
        Py_RETURN_NONE;
    if (sent < 0 && !nothing_now(errno))
        return PyErr_SetFromErrno(PyExc_OSError);
    return rest_of_frame((char *)frame, used, payload, sent < 0 ? 0 : sent);
}

PyDoc_STRVAR(send_frame_doc, "send_frame($module, fd, first, payload, /)\n--\n\n"
                             "See _accel.py.");

static PyObject *
send_frame(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    unsigned long first;
    int fd;

    if (count != 3 || !PyBytes_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "send_frame() takes a descriptor, a byte and a payload of bytes");
        return NULL;
    }
    fd = as_descriptor(args[0]);
    first = PyLong_AsUnsignedLong(args[1]);
    return PyErr_Occurred() ? NULL : send_payload(fd, first, args[2]);
}

#endif
