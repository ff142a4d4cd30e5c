import nothing_of_this_name


async def never(context):
    return {}
