/* Optional C implementations: masking (RFC 6455 section 5.3), reading and writing of the common frame, and the
   size of decoded msgpack. masking.py, _accel.py and decoded_size.py have the same functions in Python, and use
   these if they could be built.

   Invariants:

   - No state is kept between two calls. The only argument that is modified is the container that messages are
     appended to.
   - The GIL is not released. Processing 64 KiB takes a few microseconds, and releasing it would cost more.
   - Calls may run in parallel without a GIL, or with one for each interpreter. The only state of the module is
     per interpreter, and is set when the module is loaded. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

/* The longest header: two bytes, eight bytes of length, four bytes of key. */
#define LONGEST_HEAD 14
/* The maximum number of frames that one call of take_frames reads, as in _accel.py. */
#define MOST_FRAMES 1024

/* Microsoft's compiler has another name for C99's restrict. */
#if defined(_MSC_VER) && !defined(__clang__)
#define restrict __restrict
#endif

/* The state of the module, one for each interpreter. */
typedef struct {
    PyObject *append; /* "append" */
} module_state;

/* XOR by 64-bit words, each with the key twice. memcpy makes this independent of alignment and byte order.
   Compilers vectorize this loop at -O3. */
static void
xor_words(char *restrict out, const char *restrict in, Py_ssize_t size, const char *key)
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

PyDoc_STRVAR(take_one_doc, "take_one($module, data, masked, limit, /)\n--\n\n"
                           "See _accel.py.");

static PyObject *
take_one(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const unsigned char *data;
    Py_ssize_t size, limit, n, head;
    PyObject *message;
    int masked;

    if (count != 3 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "take_one() takes bytes, masked and limit");
        return NULL;
    }
    data = (const unsigned char *)PyBytes_AS_STRING(args[0]);
    size = PyBytes_GET_SIZE(args[0]);
    masked = PyObject_IsTrue(args[1]);
    limit = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred())
        return NULL;
    n = common_frame(data, size, masked, limit, &head);
    if (n < 0 || head + n != size)
        Py_RETURN_NONE;
    message = frame_message(data, head, n, masked);
    if (message == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    return message;
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
    head[0] = (unsigned char)first;
    if (payload.len < 126) {
        head[1] = (unsigned char)payload.len;
        used = 2;
    }
    else {
        int bytes = payload.len < 65536 ? 2 : 8;

        head[1] = bytes == 2 ? 126 : 127;
        for (int at = 0; at < bytes; at++)
            head[2 + at] = (unsigned char)((uint64_t)payload.len >> 8 * (bytes - 1 - at));
        used = 2 + bytes;
    }
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

static PyMethodDef methods[] = {
    {"msgpack_size", (PyCFunction)(void (*)(void))msgpack_size, METH_FASTCALL, msgpack_size_doc},
    {"mask", (PyCFunction)(void (*)(void))mask, METH_FASTCALL, mask_doc},
    {"take_frames", (PyCFunction)(void (*)(void))take_frames, METH_FASTCALL, take_frames_doc},
    {"take_one", (PyCFunction)(void (*)(void))take_one, METH_FASTCALL, take_one_doc},
    {"whole_frame", (PyCFunction)(void (*)(void))whole_frame, METH_FASTCALL, whole_frame_doc},
    {NULL, NULL, 0, NULL},
};

static int
module_exec(PyObject *module)
{
    module_state *state = PyModule_GetState(module);

    state->append = PyUnicode_InternFromString("append");
    return state->append == NULL ? -1 : 0;
}

static int
module_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);

    if (state != NULL)
        Py_CLEAR(state->append);
    return 0;
}

static void
module_free(void *module)
{
    module_clear(module);
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
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&definition);
}
