/* Optional C implementations: masking (RFC 6455 section 5.3), reading and writing of the common frame, also from and
   to a socket, the size of decoded msgpack, the packets of plain calls, the first step of a coroutine, the messages
   of bursts, and many write buffers at once. masking.py, _accel.py, decoded_size.py, inline_call.py and write_buffer.py
   have the same functions in Python, and use these if they could be built; packets.py reads and writes all packets,
   websocket/_checkpoint.py checks for a cancellation, and WebSocket in websocket/connection.py receives and sends all
   messages.

   Invariants:

   - No state is kept between two calls. The only arguments that are modified are the containers that messages are
     appended to and taken from, and the buffers of connections, and payloads that fill_payload fills; passed_checkpoint counts in trio's task.
   - A descriptor belongs to the caller, who has not closed it.
   - The GIL is not released. Processing 64 KiB takes a few microseconds, and releasing it would cost more. The
     calls of the system do not wait, and move at most as much. flush_row makes up to 32 of them, which takes a fifth
     of a millisecond.
   - Calls may run in parallel without a GIL, or with one for each interpreter. The only state of the module is
     per interpreter, and is set when the module is loaded. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stdint.h>
#include <string.h>

/* Where a descriptor is all that a call of the system needs, and a single call can do without waiting. */
#ifdef __linux__
#define HAS_SOCKETS
#include <errno.h>
#include <sys/socket.h>
#endif

/* The longest header: two bytes, eight bytes of length, four bytes of key. */
#define LONGEST_HEAD 14
/* The maximum number of frames that one call of take_frames reads, as in _accel.py. */
#define MOST_FRAMES 1024
/* The longest name of a method or id of a call, as in codecs/base.py. */
#define MOST_NAME 256

/* As in websocket/connection.py and write_buffer.py. */
#define LARGE (48 * 1024)
#define SENDS_IN_A_ROW 256
#define FLUSH_AT 65536
#define FLUSH_COST 8192
/* Bytes that are read onto the stack, and the longest payload that is sent from there. */
#define FIRST_READ 4096
#define JOINED 4096

/* An attribute of the instances of a class with slots. */
typedef struct {
    PyTypeObject *type;
    Py_ssize_t offset;
} slot;

/* Those of trio that passed_checkpoint needs: three of a task, one of a cancel status, one of the runner. */
enum { STATUS, POINTS, RUNNER, CANCELLED, INTERRUPTED, SLOTS };

/* Those that buffer_each and flush_row need, of a WriteBuffer and a SocketTransport. */
enum { WAITING_PARTS, WAITING_SIZE, FLUSH_DUE, DRAINING, BROKEN, DEFERRED, SENT, TRANSPORT, DESCRIPTOR, BUFFER_PLACES };

/* Those that send_in_burst needs, of a WebSocket, a ReceiveBuffer, a WriteBuffer and a WebSocketMessage. */
enum { WRITE_BUFFER, RECEIVE_BUFFER, SENDS, MESSAGES, SIZE, LIMIT, SCHEDULED, PARTS, KIND, PAYLOAD, PLACES };

/* The state of the module, one for each interpreter. */
typedef struct {
    PyObject *append, *task, *popleft, *value, *text, *binary, *buffer; /* texts */
    PyObject *no_key; /* b"" */
    PyTypeObject *next_method, *next_message;
    slot places[PLACES]; /* from watch_connection */
    /* From watch_buffers; the list is that of all write buffers that are empty. */
    slot buffer_places[BUFFER_PLACES];
    PyObject *no_parts, *flush; /* the list, "flush" */
    /* From watch_task: the thread-local object in which trio keeps the current task, and the attributes. */
    PyObject *context;
    slot slots[SLOTS];
    /* The attributes of that object in the thread that asked last. */
    PyObject *attributes;
    uint64_t thread;
} module_state;

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
    const char *in;
    char *out;

    if (count != 6 || !PyBytes_Check(args[0]) || !PyBytes_Check(args[2]) || !PyBytes_Check(args[5]) ||
        (PyBytes_GET_SIZE(args[5]) & ~4)) {
        PyErr_SetString(PyExc_TypeError, "fill_payload() takes bytes, an index, bytes, two indices and a key");
        return NULL;
    }
    at = PyLong_AsSsize_t(args[1]);
    start = PyLong_AsSsize_t(args[3]);
    end = PyLong_AsSsize_t(args[4]);
    if (PyErr_Occurred())
        return NULL;
    if (at < 0 || start < 0 || start > end || end > PyBytes_GET_SIZE(args[2]) ||
        end - start > PyBytes_GET_SIZE(args[0]) - at || args[0] == args[2]) {
        PyErr_SetString(PyExc_ValueError, "the data does not fit");
        return NULL;
    }
    out = PyBytes_AS_STRING(args[0]) + at;
    in = PyBytes_AS_STRING(args[2]) + start;
    if (PyBytes_GET_SIZE(args[5]))
        xor_words(out, in, end - start, PyBytes_AS_STRING(args[5]));
    else
        memcpy(out, in, end - start);
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
    const unsigned char *data;
    Py_ssize_t i, size, limit, n, head;
    int masked, frames = 0;

    if (count != 5 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "take_frames() takes bytes, start, masked, limit and messages");
        return NULL;
    }
    data = (const unsigned char *)PyBytes_AS_STRING(args[0]);
    size = PyBytes_GET_SIZE(args[0]);
    i = PyLong_AsSsize_t(args[1]);
    masked = PyObject_IsTrue(args[2]);
    limit = PyLong_AsSsize_t(args[3]);
    if (PyErr_Occurred())
        return NULL;
    if (i < 0) {
        PyErr_SetString(PyExc_ValueError, "start is an index from the beginning");
        return NULL;
    }
    while (frames++ < MOST_FRAMES && (n = common_frame(data + i, size - i, masked, limit, &head)) >= 0) {
        PyObject *message = frame_message(data + i, head, n, masked), *none;

        if (message == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
                return NULL;
            PyErr_Clear();
            return PyLong_FromLong(-1);
        }
        none = PyObject_CallMethodOneArg(args[4], state->append, message);
        Py_DECREF(message);
        if (none == NULL)
            return NULL;
        Py_DECREF(none);
        i += head + n;
    }
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

PyDoc_STRVAR(receive_frame_doc, "receive_frame($module, fd, buffer, masked, limit, /)\n--\n\n"
                                "See _accel.py.");

static PyObject *
receive_frame(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    unsigned char small[FIRST_READ];
    Py_ssize_t size, most, limit, n, head;
    PyObject *data, *result;
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

PyDoc_STRVAR(send_frame_doc, "send_frame($module, fd, first, payload, /)\n--\n\n"
                             "See _accel.py.");

static PyObject *
send_frame(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    unsigned char small[LONGEST_HEAD + JOINED], *frame;
    PyObject *whole = NULL, *rest;
    Py_ssize_t used, size, sent;
    unsigned long first;
    int fd;

    if (count != 3 || !PyBytes_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "send_frame() takes a descriptor, a byte and a payload of bytes");
        return NULL;
    }
    fd = as_descriptor(args[0]);
    first = PyLong_AsUnsignedLong(args[1]);
    if (PyErr_Occurred())
        return NULL;
    size = PyBytes_GET_SIZE(args[2]);
    frame = small;
    if (size > JOINED) {
        whole = PyBytes_FromStringAndSize(NULL, LONGEST_HEAD + size);
        if (whole == NULL)
            return NULL;
        frame = (unsigned char *)PyBytes_AS_STRING(whole);
    }
    used = write_head(frame, first, size);
    memcpy(frame + used, PyBytes_AS_STRING(args[2]), size);
    size += used;
    sent = send(fd, frame, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == size)
        rest = Py_NewRef(Py_None);
    else if (sent < 0 && !nothing_now(errno))
        rest = PyErr_SetFromErrno(PyExc_OSError);
    else {
        sent = sent < 0 ? 0 : sent;
        rest = PyBytes_FromStringAndSize((char *)frame + sent, size - sent);
    }
    Py_XDECREF(whole);
    return rest;
}

#endif

/* Sizes of objects in CPython, including the pointer in a list, as in decoded_size.py. */
enum { PLACE = 9, NUMBER = 45, LIST = 65, LONG_LIST = 121, DICT = 241, DICT_ITEM = 57, EMPTY_DICT = 73,
       TEXT = 58, WIDE_TEXT = 85, BYTES = 42, EXTENSION = 137,
       ODD_KEYS = -1, TOO_DEEP = -2, MOST_ODD_KEYS = 1000, DEEPEST = 512 };

static uint64_t
big_endian(const unsigned char *data, Py_ssize_t size, Py_ssize_t *i, int bytes)
{
    uint64_t value = 0;

    for (; bytes > 0 && *i < size; bytes--)
        value = value << 8 | data[(*i)++];
    *i += bytes; /* the missing bytes */
    return value;
}

static uint64_t
text_size(const unsigned char *text, Py_ssize_t size)
{
    unsigned char widest = 0;
    Py_ssize_t characters = 0;

    for (Py_ssize_t i = 0; i < size; i++) {
        widest = text[i] > widest ? text[i] : widest;
        characters += (text[i] & 0xC0) != 0x80;
    }
    if (widest < 0x80)
        return size > 1 ? TEXT + (uint64_t)size : PLACE;
    return WIDE_TEXT + (uint64_t)characters * (widest >= 0xF0 ? 4 : widest >= 0xC4 ? 2 : 1);
}

static uint64_t
dict_size(uint64_t items, Py_ssize_t size)
{
    if (items > (uint64_t)size)
        items = size;
    return items ? DICT + DICT_ITEM * items : EMPTY_DICT;
}

PyDoc_STRVAR(msgpack_size_doc, "msgpack_size($module, data, limit, /)\n--\n\n"
                               "See python_msgpack_size in decoded_size.py.");

static PyObject *
msgpack_size(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const unsigned char *data;
    Py_ssize_t i = 0, size, start;
    uint64_t total = 0, cost = 0, limit, length;
    struct {
        uint64_t left, odd_keys;
        int is_dict;
    } stack[DEEPEST], *top = stack - 1;

    if (count != 2 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "msgpack_size() takes bytes and a limit");
        return NULL;
    }
    data = (const unsigned char *)PyBytes_AS_STRING(args[0]);
    size = PyBytes_GET_SIZE(args[0]);
    limit = PyLong_AsUnsignedLongLong(args[1]);
    if (PyErr_Occurred())
        return NULL;
    while (i < size && total <= limit) {
        unsigned char first = data[i++];
        uint64_t inside = 0; /* the values in a list or a dict */
        int is_dict = 0, is_text = 0;

        if (first < 0x80)
            total += PLACE;
        else if (first < 0x90) {
            total += dict_size(first & 0x0F, 0x0F);
            inside = 2 * (first & 0x0F);
            is_dict = 1;
        }
        else if (first < 0xA0) {
            total += LIST;
            inside = first & 0x0F;
        }
        else if (first < 0xC0 || (first >= 0xD9 && first <= 0xDB)) {
            length = first < 0xC0 ? first & 0x1F : big_endian(data, size, &i, 1 << (first - 0xD9));
            start = i < size ? i : size;
            if (length > (uint64_t)(size - start))
                length = size - start;
            total += text_size(data + start, length);
            i += length;
            is_text = 1;
        }
        else if (first >= 0xE0)
            total += NUMBER;
        else if (first >= 0xCA && first <= 0xD3) {
            static const char sizes[] = {4, 8, 1, 2, 4, 8, 1, 2, 4, 8};

            total += NUMBER;
            i += sizes[first - 0xCA];
        }
        else if (first == 0xDC || first == 0xDD) {
            total += LONG_LIST;
            inside = big_endian(data, size, &i, first == 0xDC ? 2 : 4);
        }
        else if (first == 0xDE || first == 0xDF) {
            length = big_endian(data, size, &i, first == 0xDE ? 2 : 4);
            total += dict_size(length, size);
            inside = 2 * length;
            is_dict = 1;
        }
        else if (first >= 0xC4 && first <= 0xC9) { /* bin and ext */
            int extension = first >= 0xC7;

            length = big_endian(data, size, &i, 1 << ((first - 0xC4) % 3));
            if (length > (uint64_t)size)
                length = size;
            total += (extension ? EXTENSION : BYTES) + length;
            i += extension + length;
            is_text = !extension;
        }
        else if (first >= 0xD4 && first <= 0xD8) {
            length = 1 << (first - 0xD4);
            total += EXTENSION + (length < (uint64_t)size ? length : (uint64_t)size);
            i += 1 + length;
        }
        else /* nil, true, false, and the unused byte */
            total += PLACE;
        if (top >= stack) {
            if (top->is_dict && !(top->left & 1) && !is_text) {
                cost += 2 * ++top->odd_keys - 1;
                if (cost > MOST_ODD_KEYS * MOST_ODD_KEYS)
                    return PyLong_FromLong(ODD_KEYS);
            }
            top->left--;
        }
        if (inside) {
            if (top == stack + DEEPEST - 1)
                return PyLong_FromLong(TOO_DEEP);
            top++;
            top->left = inside;
            top->odd_keys = 0;
            top->is_dict = is_dict;
        }
        while (top >= stack && !top->left)
            top--;
    }
    return PyLong_FromUnsignedLongLong(total);
}

/* -- calls ------------------------------------------------------------------------------------------------------

   The requests and responses of most calls in trio-ws.v1 and webshocket.v1. packets.py reads and writes all
   packets; these two functions do the same for the plain ones, without the objects in between. */

typedef struct {
    const unsigned char *at, *end;
} cursor;

/* Read a big-endian number of 1, 2, 4 or 8 bytes. Return 0 if it is not complete. */
static int
take_number(cursor *c, int bytes, uint64_t *number)
{
    if (c->end - c->at < bytes)
        return 0;
    for (*number = 0; bytes > 0; bytes--)
        *number = *number << 8 | *c->at++;
    return 1;
}

/* Read the msgpack text at the cursor. Return 0 for anything else, and if it is not complete. */
static int
take_text(cursor *c, const char **text, Py_ssize_t *size)
{
    uint64_t length;
    unsigned char first;

    if (c->at == c->end)
        return 0;
    first = *c->at++;
    if (first >= 0xA0 && first < 0xC0)
        length = first & 0x1F;
    else if ((first != 0xD9 && first != 0xDA) || !take_number(c, first - 0xD8, &length))
        return 0;
    if (length > (uint64_t)(c->end - c->at))
        return 0;
    *text = (const char *)c->at;
    *size = (Py_ssize_t)length;
    c->at += length;
    return 1;
}

/* Return a new number, text, bool, None or bytes. Return NULL for anything else, with an exception only if there
   is no memory or text is not valid UTF-8. */
static PyObject *
take_scalar(cursor *c)
{
    unsigned char first;
    uint64_t number;
    const char *text;
    Py_ssize_t size;
    double real;

    if (c->at == c->end)
        return NULL;
    first = *c->at;
    if ((first >= 0xA0 && first < 0xC0) || first == 0xD9 || first == 0xDA)
        return take_text(c, &text, &size) ? PyUnicode_DecodeUTF8(text, size, NULL) : NULL;
    c->at++;
    if (first < 0x80)
        return PyLong_FromLong(first);
    if (first >= 0xE0)
        return PyLong_FromLong((long)first - 0x100);
    switch (first) {
    case 0xC0:
        return Py_NewRef(Py_None);
    case 0xC2:
    case 0xC3:
        return PyBool_FromLong(first == 0xC3);
    case 0xC4:
        if (!take_number(c, 1, &number) || number > (uint64_t)(c->end - c->at))
            return NULL;
        c->at += number;
        return PyBytes_FromStringAndSize((const char *)c->at - number, (Py_ssize_t)number);
    case 0xCB:
        if (c->end - c->at < 8)
            return NULL;
        real = PyFloat_Unpack8((const char *)c->at, 0);
        c->at += 8;
        return real == -1.0 && PyErr_Occurred() ? NULL : PyFloat_FromDouble(real);
    case 0xCC:
    case 0xCD:
    case 0xCE:
    case 0xCF:
        return take_number(c, 1 << (first - 0xCC), &number) ? PyLong_FromUnsignedLongLong(number) : NULL;
    case 0xD0:
        return take_number(c, 1, &number) ? PyLong_FromLong((int8_t)number) : NULL;
    case 0xD1:
        return take_number(c, 2, &number) ? PyLong_FromLong((int16_t)number) : NULL;
    case 0xD2:
        return take_number(c, 4, &number) ? PyLong_FromLong((int32_t)number) : NULL;
    case 0xD3:
        return take_number(c, 8, &number) ? PyLong_FromLongLong((int64_t)number) : NULL;
    default:
        return NULL;
    }
}

/* Return a new list of scalars. Return NULL as take_scalar does. */
static PyObject *
take_args(cursor *c)
{
    PyObject *args;
    int count;

    if (c->at == c->end || *c->at < 0x90 || *c->at >= 0xA0)
        return NULL;
    count = *c->at++ & 0x0F;
    args = PyList_New(count);
    for (int i = 0; args != NULL && i < count; i++) {
        PyObject *arg = take_scalar(c);

        if (arg == NULL)
            Py_CLEAR(args);
        else
            PyList_SET_ITEM(args, i, arg);
    }
    return args;
}

/* Whether the text is this key. */
#define IS(key) (size == sizeof(key) - 1 && memcmp(text, key, sizeof(key) - 1) == 0)

/* Read the map of a request or a response into call: method or None, args or result, and call_id. Return 0 if it is
   not plain, and as take_scalar does. */
static int
take_rpc(cursor *c, PyObject *call[3])
{
    enum { METHOD, VALUE, CALL_ID, TYPE, KWARGS, NO_ERROR, NO_STREAM, NO_END };
    unsigned int seen = 0;
    int count, is_response = 0, has_args = 0, has_slash = 0;
    const char *text;
    Py_ssize_t size;

    if (c->at == c->end || *c->at < 0x80 || *c->at >= 0x90)
        return 0;
    for (count = *c->at++ & 0x0F; count > 0; count--) {
        int key, is_args;

        if (!take_text(c, &text, &size))
            return 0;
        is_args = IS("args");
        key = IS("type") ? TYPE : IS("method") ? METHOD : is_args || IS("response") ? VALUE
            : IS("call_id") ? CALL_ID : IS("kwargs") ? KWARGS : IS("error") ? NO_ERROR
            : IS("is_stream") ? NO_STREAM : IS("is_end") ? NO_END : -1;
        if (key < 0 || seen & 1u << key)
            return 0;
        seen |= 1u << key;
        if (key >= KWARGS) {
            /* An empty map, nil, or false: what webshocket writes where we write nothing. */
            if (c->at == c->end || *c->at++ != (key == KWARGS ? 0x80 : key == NO_ERROR ? 0xC0 : 0xC2))
                return 0;
            continue;
        }
        if (key == VALUE) {
            has_args = is_args;
            if ((call[VALUE] = is_args ? take_args(c) : take_scalar(c)) == NULL)
                return 0;
            continue;
        }
        if (!take_text(c, &text, &size) || size == 0 || size > MOST_NAME)
            return 0;
        if (key == TYPE) {
            is_response = IS("response");
            if (!is_response && !IS("request"))
                return 0;
            continue;
        }
        if (key == CALL_ID)
            has_slash = memchr(text, '/', size) != NULL;
        if ((call[key] = PyUnicode_DecodeUTF8(text, size, NULL)) == NULL)
            return 0;
    }
    if (!(seen & 1u << TYPE) || call[CALL_ID] == NULL)
        return 0;
    if (is_response) {
        if (seen & (1u << METHOD | 1u << KWARGS) || has_args)
            return 0;
        call[METHOD] = Py_NewRef(Py_None);
        if (call[VALUE] == NULL)
            call[VALUE] = Py_NewRef(Py_None);
        return 1;
    }
    if (call[METHOD] == NULL || has_slash || (call[VALUE] != NULL && !has_args))
        return 0;
    if (call[VALUE] == NULL)
        call[VALUE] = PyList_New(0);
    return call[VALUE] != NULL;
}

/* Read a payload into call, as take_rpc does. Return 0 if it is not a plain call. */
static int
take_call(PyObject *payload, PyObject *call[3])
{
    int source = 0, rpc = 0;
    const char *text;
    Py_ssize_t size;
    cursor c;

    if (!PyBytes_Check(payload))
        return 0;
    c.at = (const unsigned char *)PyBytes_AS_STRING(payload);
    c.end = c.at + PyBytes_GET_SIZE(payload);
    if (c.at == c.end || *c.at++ != 0x82)
        return 0;
    for (int i = 0; i < 2; i++) {
        if (!take_text(&c, &text, &size))
            return 0;
        if (IS("source") && !source && c.at < c.end && *c.at++ == 5)
            source = 1;
        else if (IS("rpc") && !rpc && take_rpc(&c, call))
            rpc = 1;
        else
            return 0;
    }
    return c.at == c.end;
}

PyDoc_STRVAR(plain_call_doc,
             "plain_call($module, payload, /)\n--\n\n"
             "Return (method, args, call_id) of a request without anything else, whose args are numbers, texts,\n"
             "bytes, bools and None, or (None, result, call_id) of a response with such a result. Return None for any\n"
             "other payload; packets.py decides about that.");

static PyObject *
plain_call(PyObject *module, PyObject *payload)
{
    PyObject *call[3] = {NULL, NULL, NULL}, *found = NULL;

    if (take_call(payload, call))
        found = PyTuple_Pack(3, call[0], call[1], call[2]);
    else if (!PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        found = Py_NewRef(Py_None);
    }
    for (int i = 0; i < 3; i++)
        Py_XDECREF(call[i]);
    return found;
}

/* Take the response that comes first, if it is plain and its call is pending. Return 1 then, 0 if it is left where it
   is, and -1 with an exception. */
static int
take_response(module_state *state, PyObject *messages, PyObject *pending, PyObject *type, Py_ssize_t limit,
              PyObject *taken)
{
    PyObject *message = PySequence_GetItem(messages, 0), *call[3] = {NULL, NULL, NULL}, *waiting, *response = NULL;
    int found = -1;

    if (message == NULL)
        return -1;
    if (!PyBytes_Check(message) || PyBytes_GET_SIZE(message) >= limit || !take_call(message, call) ||
        call[0] != Py_None)
        found = PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_UnicodeDecodeError) ? -1 : 0;
    else if ((waiting = PyDict_GetItemWithError(pending, call[2])) == NULL)
        found = PyErr_Occurred() ? -1 : 0;
    else {
        PyObject *const fields[2] = {call[2], call[1]};
        PyObject *gone = NULL;

        /* In this order, no response is lost where there is no memory. */
        Py_INCREF(waiting);
        if ((response = PyObject_Vectorcall(type, fields, 2, NULL)) != NULL &&
            PyObject_SetAttr(waiting, state->value, response) == 0 && PyList_Append(taken, waiting) == 0 &&
            PyDict_DelItem(pending, call[2]) == 0 &&
            (gone = PyObject_CallMethodNoArgs(messages, state->popleft)) != NULL)
            found = 1;
        Py_XDECREF(gone);
        Py_DECREF(waiting);
    }
    if (found == 0)
        PyErr_Clear();
    Py_DECREF(message);
    Py_XDECREF(response);
    for (int i = 0; i < 3; i++)
        Py_XDECREF(call[i]);
    return found;
}

PyDoc_STRVAR(take_responses_doc,
             "take_responses($module, messages, pending, response_type, limit, most, /)\n--\n\n"
             "Remove plain responses to pending calls from the start of a deque of messages, and those calls from\n"
             "their dict. The value of each call becomes a response of the given type. Return the calls in a list. Stop\n"
             "after `most`, and at any other message, and at one of `limit` bytes; session.py decides about these.");

static PyObject *
take_responses(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t limit, most, waiting;
    PyObject *taken;
    int found = 1;

    if (count != 5 || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "take_responses() takes a deque, a dict, a class and two numbers");
        return NULL;
    }
    limit = PyLong_AsSsize_t(args[3]);
    most = PyLong_AsSsize_t(args[4]);
    waiting = PyErr_Occurred() ? -1 : PyObject_Size(args[0]);
    taken = waiting < 0 ? NULL : PyList_New(0);
    for (Py_ssize_t i = 0; taken != NULL && found > 0 && i < most && i < waiting; i++) {
        found = take_response(PyModule_GetState(module), args[0], args[1], args[2], limit, taken);
        if (found < 0 && PyList_GET_SIZE(taken) == 0)
            Py_CLEAR(taken);
    }
    if (taken != NULL && found < 0)
        PyErr_Clear(); /* those that were taken are no longer pending; the next call meets the rest again */
    return taken;
}

/* A part of a packet: encoded already, or a text before which its length as msgpack is written. */
typedef struct {
    const char *data;
    Py_ssize_t size, head_size;
    unsigned char head[3];
} part;

/* The parts that the arguments are, in this order. Bit i of texts says whether part i is a text, and not bytes. Return 0
   with an exception if one is neither. */
static int
as_parts(part *parts, PyObject *const *args, const int *order, int count, unsigned int texts)
{
    for (int i = 0; i < count; i++, parts++) {
        PyObject *arg = args[order[i]];

        parts->head_size = 0;
        if (!(texts >> i & 1) && PyBytes_Check(arg)) {
            parts->data = PyBytes_AS_STRING(arg);
            parts->size = PyBytes_GET_SIZE(arg);
            continue;
        }
        if (!(texts >> i & 1) || !PyUnicode_Check(arg)) {
            PyErr_SetString(PyExc_TypeError, "the parts of a packet are bytes and texts");
            return 0;
        }
        if ((parts->data = PyUnicode_AsUTF8AndSize(arg, &parts->size)) == NULL)
            return 0;
        if (parts->size > 0xFFFF) {
            PyErr_SetString(PyExc_ValueError, "the text is too long");
            return 0;
        }
        parts->head_size = parts->size < 32 ? 1 : parts->size < 256 ? 2 : 3;
        parts->head[0] = (unsigned char)(parts->size < 32 ? 0xA0 | parts->size : parts->size < 256 ? 0xD9 : 0xDA);
        parts->head[1] = (unsigned char)(parts->size < 256 ? parts->size : parts->size >> 8);
        parts->head[2] = (unsigned char)parts->size;
    }
    return 1;
}

/* Return one frame of these parts, with a mask if the key is not empty. */
static PyObject *
packet_frame(PyObject *first_byte, PyObject *key, const part *parts, int count)
{
    unsigned char head[LONGEST_HEAD];
    Py_ssize_t head_size, payload = 0;
    unsigned long first = PyLong_AsUnsignedLong(first_byte);
    PyObject *frame;
    char *out, *begin;

    if (PyErr_Occurred())
        return NULL;
    for (int i = 0; i < count; i++)
        payload += parts[i].head_size + parts[i].size;
    head_size = write_head(head, first, payload);
    if (key != NULL) {
        head[1] |= 0x80;
        memcpy(head + head_size, PyBytes_AS_STRING(key), 4);
        head_size += 4;
    }
    frame = PyBytes_FromStringAndSize(NULL, head_size + payload);
    if (frame == NULL)
        return NULL;
    out = PyBytes_AS_STRING(frame);
    memcpy(out, head, head_size);
    begin = out += head_size;
    for (int i = 0; i < count; i++) {
        memcpy(out, parts[i].head, parts[i].head_size);
        memcpy(out + parts[i].head_size, parts[i].data, parts[i].size);
        out += parts[i].head_size + parts[i].size;
    }
    if (key != NULL)
        xor_words(begin, begin, payload, PyBytes_AS_STRING(key));
    return frame;
}

PyDoc_STRVAR(result_frame_doc,
             "result_frame($module, first, before, between, after, call_id, value, /)\n--\n\n"
             "Return one frame without a mask: the first byte, and before, the id as msgpack, between, the encoded\n"
             "value, after.");

static PyObject *
result_frame(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const int order[5] = {1, 4, 2, 5, 3};
    part parts[5];

    if (count != 6) {
        PyErr_SetString(PyExc_TypeError, "result_frame() takes a byte, three bytes, an id and bytes");
        return NULL;
    }
    return as_parts(parts, args, order, 5, 1u << 1) ? packet_frame(args[0], NULL, parts, 5) : NULL;
}

PyDoc_STRVAR(request_frame_doc,
             "request_frame($module, first, start, before_args, before_id, end, method, args, call_id, key, /)\n--\n\n"
             "Return one frame, masked if the key is not empty: the first byte, and start, the method as msgpack,\n"
             "before_args, the encoded arguments, before_id, the id as msgpack, end.");

static PyObject *
request_frame(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const int order[7] = {1, 5, 2, 6, 3, 7, 4};
    part parts[7];

    if (count != 9 || !PyBytes_Check(args[8]) || (PyBytes_GET_SIZE(args[8]) & ~4)) {
        PyErr_SetString(PyExc_TypeError, "request_frame() takes a byte, four bytes, a method, bytes, an id and a key");
        return NULL;
    }
    if (!as_parts(parts, args, order, 7, 1u << 1 | 1u << 5))
        return NULL;
    return packet_frame(args[0], PyBytes_GET_SIZE(args[8]) ? args[8] : NULL, parts, 7);
}

PyDoc_STRVAR(have_types_doc, "have_types($module, values, types, /)\n--\n\n"
                             "See python_have_types in rpc/methods.py.");

static PyObject *
have_types(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t size;
    int equal;

    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "have_types() takes two arguments");
        return NULL;
    }
    if (!PyList_Check(args[0]) || !PyTuple_Check(args[1]))
        Py_RETURN_FALSE;
    size = PyList_GET_SIZE(args[0]);
    equal = size == PyTuple_GET_SIZE(args[1]);
    for (Py_ssize_t i = 0; equal && i < size; i++)
        equal = (PyObject *)Py_TYPE(PyList_GET_ITEM(args[0], i)) == PyTuple_GET_ITEM(args[1], i);
    return PyBool_FromLong(equal);
}

/* Look up an attribute of the instances of a class. Return 0 if it has no slot, -1 with an exception. */
static int
find_slot(slot *found, PyObject *type, const char *name)
{
    PyObject *member;
    int is_slot;

    if (!PyType_Check(type))
        return 0;
    member = PyObject_GetAttrString(type, name);
    if (member == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    is_slot = Py_IS_TYPE(member, &PyMemberDescr_Type) &&
              ((PyMemberDescrObject *)member)->d_member->type == T_OBJECT_EX;
    if (is_slot) {
        found->offset = ((PyMemberDescrObject *)member)->d_member->offset;
        Py_XSETREF(found->type, (PyTypeObject *)Py_NewRef(type));
    }
    Py_DECREF(member);
    return is_slot;
}

/* Return the place of the attribute of an object; NULL if that is of another class. */
static PyObject **
in_slot(const slot *where, PyObject *object)
{
    return object != NULL && Py_IS_TYPE(object, where->type) ? (PyObject **)((char *)object + where->offset) : NULL;
}

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

/* Free either of the two objects. */
static void
next_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    type->tp_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
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
    {Py_tp_dealloc, next_dealloc},
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

/* The same for callers that take a StopIteration instead of a PYGEN_RETURN. */
static PyObject *
next_message_send(PyObject *self, PyObject *value)
{
    PyObject *result, *stop;

    if (next_message_step(self, value, &result) != PYGEN_RETURN)
        return result;
    stop = PyObject_CallOneArg(PyExc_StopIteration, result);
    Py_DECREF(result);
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
    return NULL;
}

static PyObject *
next_message_iternext(PyObject *self)
{
    return next_message_send(self, Py_None);
}

static PyObject *
next_message_throw(PyObject *self, PyObject *args)
{
    PyObject *rest = next_message_rest((next_message *)self), *throw, *result;

    throw = rest == NULL ? NULL : PyObject_GetAttrString(rest, "throw");
    result = throw == NULL ? NULL : PyObject_CallObject(throw, args);
    Py_XDECREF(throw);
    return result;
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
    {Py_tp_dealloc, next_dealloc},
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

/* Return the number in a slot, or -1. */
static Py_ssize_t
number_in(const slot *where, PyObject *object)
{
    PyObject **number = in_slot(where, object);
    Py_ssize_t value = number == NULL || *number == NULL ? -1 : PyLong_AsSsize_t(*number);

    if (value == -1 && PyErr_Occurred())
        PyErr_Clear();
    return value;
}

static int
set_number(const slot *where, PyObject *object, Py_ssize_t value)
{
    PyObject *number = PyLong_FromSsize_t(value), **place = in_slot(where, object);

    if (number == NULL)
        return -1;
    Py_XSETREF(*place, number);
    return 0;
}

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

/* Return what is in a slot; NULL if it is empty or the object is of another class. */
static PyObject *
value_in(const slot *where, PyObject *object)
{
    PyObject **place = in_slot(where, object);

    return place == NULL ? NULL : *place;
}

static void
set_value(const slot *where, PyObject *object, PyObject *value)
{
    PyObject **place = in_slot(where, object);

    Py_XSETREF(*place, Py_NewRef(value));
}

static int
call_method(PyObject *object, PyObject *name, PyObject *argument)
{
    PyObject *result = argument == NULL ? PyObject_CallMethodNoArgs(object, name)
                                        : PyObject_CallMethodOneArg(object, name, argument);

    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
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
            PyObject *type, *error, *trace;

            PyErr_SetFromErrno(PyExc_OSError);
            PyErr_Fetch(&type, &error, &trace);
            PyErr_NormalizeException(&type, &error, &trace);
            set_value(&places[FLUSH_DUE], buffer, Py_False);
            rest = PyObject_CallMethod(buffer, "_break", "O", error);
            failed = rest == NULL;
            Py_XDECREF(rest);
            Py_XDECREF(type);
            Py_XDECREF(error);
            Py_XDECREF(trace);
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
    if (sent < size) {
        rest = PyObject_CallMethod(buffer, "_drain_soon", NULL);
        Py_XDECREF(rest);
        return rest == NULL ? -1 : 1;
    }
    return 1;
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

static PyMethodDef methods[] = {
    {"passed_checkpoint", passed_checkpoint, METH_NOARGS, passed_checkpoint_doc},
    {"watch_connection", (PyCFunction)(void (*)(void))watch_connection, METH_FASTCALL, watch_connection_doc},
    {"send_in_burst", (PyCFunction)(void (*)(void))send_in_burst, METH_FASTCALL, send_in_burst_doc},
    {"have_types", (PyCFunction)(void (*)(void))have_types, METH_FASTCALL, have_types_doc},
    {"buffer_frame", (PyCFunction)(void (*)(void))buffer_frame, METH_FASTCALL, buffer_frame_doc},
    {"buffer_item", (PyCFunction)(void (*)(void))buffer_item, METH_FASTCALL, buffer_item_doc},
    {"watch_buffers", (PyCFunction)(void (*)(void))watch_buffers, METH_FASTCALL, watch_buffers_doc},
    {"buffer_each", (PyCFunction)(void (*)(void))buffer_each, METH_FASTCALL, buffer_each_doc},
    {"watch_task", (PyCFunction)(void (*)(void))watch_task, METH_FASTCALL, watch_task_doc},
    {"plain_call", plain_call, METH_O, plain_call_doc},
    {"take_responses", (PyCFunction)(void (*)(void))take_responses, METH_FASTCALL, take_responses_doc},
    {"request_frame", (PyCFunction)(void (*)(void))request_frame, METH_FASTCALL, request_frame_doc},
    {"result_frame", (PyCFunction)(void (*)(void))result_frame, METH_FASTCALL, result_frame_doc},
    {"msgpack_size", (PyCFunction)(void (*)(void))msgpack_size, METH_FASTCALL, msgpack_size_doc},
    {"first_step", (PyCFunction)(void (*)(void))first_step, METH_FASTCALL, first_step_doc},
    {"mask", (PyCFunction)(void (*)(void))mask, METH_FASTCALL, mask_doc},
    {"new_payload", new_payload, METH_O, new_payload_doc},
    {"fill_payload", (PyCFunction)(void (*)(void))fill_payload, METH_FASTCALL, fill_payload_doc},
    {"take_frames", (PyCFunction)(void (*)(void))take_frames, METH_FASTCALL, take_frames_doc},
    {"whole_frame", (PyCFunction)(void (*)(void))whole_frame, METH_FASTCALL, whole_frame_doc},
#ifdef HAS_SOCKETS
    {"receive_frame", (PyCFunction)(void (*)(void))receive_frame, METH_FASTCALL, receive_frame_doc},
    {"send_frame", (PyCFunction)(void (*)(void))send_frame, METH_FASTCALL, send_frame_doc},
    {"flush_row", (PyCFunction)(void (*)(void))flush_row, METH_FASTCALL, flush_row_doc},
#endif
    {NULL, NULL, 0, NULL},
};

/* Increase it, here and in masking.py, when a function is added or changes what it does: a file that was built from
   an older source is then not used. */
#define INTERFACE 10

static int
module_exec(PyObject *module)
{
    module_state *state = PyModule_GetState(module);

    if (PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0)
        return -1;
    state->append = PyUnicode_InternFromString("append");
    state->task = PyUnicode_InternFromString("task");
    state->popleft = PyUnicode_InternFromString("popleft");
    state->value = PyUnicode_InternFromString("value");
    state->text = PyUnicode_InternFromString("text");
    state->binary = PyUnicode_InternFromString("binary");
    state->flush = PyUnicode_InternFromString("flush");
    state->buffer = PyUnicode_InternFromString("buffer");
    state->no_key = PyBytes_FromStringAndSize(NULL, 0);
    state->next_method = (PyTypeObject *)PyType_FromModuleAndSpec(module, &next_method_spec, NULL);
    state->next_message = (PyTypeObject *)PyType_FromModuleAndSpec(module, &next_message_spec, NULL);
    return PyErr_Occurred() ? -1 : PyModule_AddType(module, state->next_method);
}

static int
module_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);

    if (state != NULL) {
        for (int i = 0; i < SLOTS; i++)
            Py_CLEAR(state->slots[i].type);
        for (int i = 0; i < PLACES; i++)
            Py_CLEAR(state->places[i].type);
        for (int i = 0; i < BUFFER_PLACES; i++)
            Py_CLEAR(state->buffer_places[i].type);
        Py_CLEAR(state->no_parts);
        Py_CLEAR(state->flush);
        Py_CLEAR(state->context);
        Py_CLEAR(state->attributes);
        Py_CLEAR(state->append);
        Py_CLEAR(state->task);
        Py_CLEAR(state->popleft);
        Py_CLEAR(state->value);
        Py_CLEAR(state->text);
        Py_CLEAR(state->binary);
        Py_CLEAR(state->buffer);
        Py_CLEAR(state->no_key);
        Py_CLEAR(state->next_method);
        Py_CLEAR(state->next_message);
    }
    return 0;
}

static void
module_free(void *module)
{
    module_clear(module);
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = PyModule_GetState(module);

    if (state != NULL) {
        Py_VISIT(state->context);
        Py_VISIT(state->attributes);
        Py_VISIT(state->next_method);
        Py_VISIT(state->next_message);
        for (int i = 0; i < SLOTS; i++)
            Py_VISIT(state->slots[i].type);
        for (int i = 0; i < PLACES; i++)
            Py_VISIT(state->places[i].type);
        for (int i = 0; i < BUFFER_PLACES; i++)
            Py_VISIT(state->buffer_places[i].type);
        Py_VISIT(state->no_parts);
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)module_exec},
#ifdef Py_mod_multiple_interpreters /* 3.12 */
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil /* 3.13 */
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "trio_ws.protocol._speedups",
    .m_size = sizeof(module_state),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&definition);
}
