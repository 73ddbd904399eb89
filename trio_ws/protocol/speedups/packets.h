/* The size of decoded msgpack, and the packets of calls. As decoded_size.py and packets.py. */

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

/* Whether the values of a list have exactly these types. */
static int
fit_types(PyObject *values, PyObject *types)
{
    Py_ssize_t size = PyList_GET_SIZE(values);
    int equal = size == PyTuple_GET_SIZE(types);

    for (Py_ssize_t i = 0; equal && i < size; i++)
        equal = (PyObject *)Py_TYPE(PyList_GET_ITEM(values, i)) == PyTuple_GET_ITEM(types, i);
    return equal;
}

PyDoc_STRVAR(have_types_doc, "have_types($module, values, types, /)\n--\n\n"
                             "See python_have_types in rpc/methods.py.");

static PyObject *
have_types(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "have_types() takes two arguments");
        return NULL;
    }
    if (!PyList_Check(args[0]) || !PyTuple_Check(args[1]))
        Py_RETURN_FALSE;
    return PyBool_FromLong(fit_types(args[0], args[1]));
}
